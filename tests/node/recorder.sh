#!/bin/sh
# Stands in a plugin's place in /opt/cni/bin: notes the call, then becomes the plugin.
plugin=${0##*/}
input=/run/node/calls/$$-$CNI_COMMAND-$plugin
cat >"$input"
printf '%s\t' "$plugin" "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_IFNAME" "$CNI_NETNS" "$CNI_ARGS" >"$input.env"
printf '%s\n' "$input" >>"$input.env"
# One write: lines of calls at the same time do not mix.
cat "$input.env" >>/run/node/calls/log
exec "/opt/cni/recorded/$plugin" <"$input"
