#!/bin/sh
# Arguments: a static busybox, a directory, the name of the image. Makes image.tar there, an
# image of nothing but busybox, as `docker save` would write it. It sleeps until it is killed.
set -eu
cd "$2"
mkdir -p root/bin root/etc root/tmp root/proc root/sys root/dev
cp "$1" root/bin/busybox
for applet in $(root/bin/busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "root/bin/$applet"
done
tar --create --file=layer.tar --owner=0 --group=0 --numeric-owner --directory=root .
sum=$(sha256sum layer.tar)
cat >config.json <<END
{ "architecture": "$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')", "os": "linux",
  "config": { "Entrypoint": ["/bin/sleep", "infinity"], "Env": ["PATH=/bin"] },
  "rootfs": { "type": "layers", "diff_ids": ["sha256:${sum%% *}"] } }
END
cat >manifest.json <<END
[{ "Config": "config.json", "RepoTags": ["$3"], "Layers": ["layer.tar"] }]
END
tar --create --file=image.tar manifest.json config.json layer.tar
rm -rf root layer.tar config.json manifest.json
