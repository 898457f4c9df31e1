# Sourced by up.sh and down.sh: which stack is meant and where its settings are. Two stacks live beside each other when
# they differ in COFFER_STACK, the COFFER_*_PORT(S) and the COFFER_*_POOLs.
COFFER_STACK="${COFFER_STACK:-coffer}"
state=.state/$COFFER_STACK settings=$state/env
[ "$COFFER_STACK" != coffer ] || settings=.env # where a bare `docker compose` looks
export COFFER_STACK
compose() { docker compose --progress quiet --env-file "$settings" "$@"; }
