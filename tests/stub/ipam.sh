#!/bin/sh
# An IPAM plugin for tests. It notes each call in $STUB_DIR (calls, and of each
# verb its .stdin, .env and .pid)
# and answers an ADD as $STUB_BEHAVIOUR says. All other verbs succeed, unless the
# behaviour is "VERB-fails".

cat >"$STUB_DIR/$CNI_COMMAND.stdin"
env >"$STUB_DIR/$CNI_COMMAND.env"
echo $$ >"$STUB_DIR/$CNI_COMMAND.pid"
echo "$CNI_COMMAND" >>"$STUB_DIR/calls"
echo "stub: $CNI_COMMAND" >&2

if [ "$STUB_BEHAVIOUR" = "$CNI_COMMAND-fails" ]; then
    echo '{"cniVersion":"1.1.0","code":11,"msg":"stub is busy","details":"with other things"}'
    exit 1
fi
[ "$CNI_COMMAND" = ADD ] || exit 0

ips='"ips":[{"address":"10.64.1.80/24","gateway":"10.64.1.1"}]'
case $STUB_BEHAVIOUR in
ok | *-fails) echo "{\"cniVersion\":\"1.1.0\",$ips,\"routes\":[{\"dst\":\"10.1.0.0/16\"}],\"dns\":{\"nameservers\":[\"10.0.0.10\"]}}" ;;
no-version) echo "{$ips}" ;;
old) echo '{"cniVersion":"0.2.0","ip4":{"ip":"10.64.1.80/24","gateway":"10.64.1.1"}}' ;;
interfaces) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"x"}],"ips":[{"interface":7,"address":"10.64.1.80/24","gateway":"10.64.1.1"}]}' ;;
slash32) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.64.1.80/32"}]}' ;;
taken) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.64.1.80/24","gateway":"10.99.0.1"},{"address":"10.64.1.80/24","gateway":"10.99.0.1"}]}' ;;
error)
    echo '{"cniVersion":"1.1.0","code":11,"msg":"stub is busy","details":"with other things"}'
    exit 1
    ;;
silent-error) exit 1 ;;
stderr-error)
    echo 'stub: my disk is gone' >&2
    exit 1
    ;;
junk-error)
    echo 'my disk is gone'
    exit 1
    ;;
junk) echo 'my disk is gone' ;;
null) echo 'null' ;;
empty) ;;
no-ips) echo '{"cniVersion":"1.1.0","ips":[]}' ;;
bad-version) echo "{\"cniVersion\":\"9.9.9\",$ips}" ;;
hangs) exec sleep 600 ;;
*)
    echo "stub: no behaviour $STUB_BEHAVIOUR" >&2
    exit 99
    ;;
esac
