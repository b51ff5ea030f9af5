#!/bin/sh
# A main plugin as flannel's is: it hands a configuration of its own, from $DELEGATE_CONFIG, to
# the plugin $DELEGATE, in its own environment, and passes on what that says.
cat >/dev/null
printf '%s' "$DELEGATE_CONFIG" | "$DELEGATE"
