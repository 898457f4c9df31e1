#!/bin/sh
# From a fresh machine to a running stack. Safe to run again at any time: it does only what is not done yet.
set -eu
cd "$(dirname "$0")/.."
. deploy/stack.sh
say() { printf '%s\n' "$*"; }
guest_images=$(deploy/images/build.sh --engines) # what machines pull

umask 077
mkdir -p "$state"
touch "$settings"
# As with every setting: once chosen, it stays until another is given.
COFFER_PROFILES=${COFFER_PROFILES-$(sed -n 's/^COFFER_PROFILES=//p' "$settings")}
case $COFFER_PROFILES in
    '' | keystone) export COFFER_PROFILES ;;
    *) say "There is no profile $COFFER_PROFILES; the one that there is: keystone" >&2; exit 2 ;;
esac

# Where machines are made: on this host's Docker, or in the OpenStack cloud that the COFFER_OPENSTACK_* settings name.
COFFER_CLOUD=${COFFER_CLOUD-$(sed -n 's/^COFFER_CLOUD=//p' "$settings")}
COFFER_CLOUD=${COFFER_CLOUD:-docker}
case $COFFER_CLOUD in
    docker) files=docker-compose.yml store=swift ;;
    openstack) files=docker-compose.yml:deploy/openstack/compose.yml store= ;;
    *) say "There is no cloud driver $COFFER_CLOUD; there are docker and openstack" >&2; exit 2 ;;
esac
export COFFER_CLOUD
[ -z "${COFFER_OPENSTACK_DNS_DOMAIN:-}" ] || {
    say "COFFER_OPENSTACK_DNS_DOMAIN is set, but no names are made in Designate; unset it" >&2
    exit 2
}

deploy/host/docker.sh
deploy/images/build.sh

# --- settings that only this machine knows; nothing here is secret ---
set_env() {
    grep -v "^$1=" "$settings" > "$settings.new" || :
    printf '%s=%s\n' "$1" "$2" >> "$settings.new"
    mv "$settings.new" "$settings"
}
env | grep '^COFFER_[A-Z_]*=' | while IFS='=' read -r name value; do set_env "$name" "$value"; done
set_env COMPOSE_PROFILES "$COFFER_PROFILES" # so every command of compose means the same services
set_env COMPOSE_FILE "$files"
set_env COFFER_DOCKER_GID "$(stat -c %g /var/run/docker.sock)"
[ $COFFER_CLOUD = docker ] || {
    clouds=$(sed -n 's/^COFFER_CLOUDS_FILE=//p' "$settings")
    [ -r "$clouds" ] || { say "COFFER_CLOUDS_FILE: the clouds.yaml with the service's cloud cannot be read: '$clouds'" >&2; exit 2; }
    # the services' own copy, readable for them alone
    install -m 400 -o 10001 -g 10001 "$clouds" "$state/service-clouds.yaml"
    set_env COFFER_CLOUDS_COPY "$PWD/$state/service-clouds.yaml"
}

say "Starting PostgreSQL, NATS, ${store:+Swift }and the registry ..."
# shellcheck disable=SC2086
compose up -d --wait postgres nats $store registry registry-guests

# --- engine and backup images into the registry, and the seed of layers that machines start from ---
say "Pushing engine images and making the seed volume ..."
# shellcheck disable=SC2086
pushed=$(deploy/images/push.sh "${COFFER_STACK}_control" registry:5000 $guest_images)
references=$(printf '%s\n' "$pushed" | while read -r image digest; do
    printf 'registry.coffer:5000/%s@%s ' "${image%%:*}" "$digest"
done)
seed=
[ $COFFER_CLOUD != docker ] || {
    # shellcheck disable=SC2086
    seed=$(deploy/images/seed.sh "$COFFER_STACK" "$COFFER_STACK-management" registry.coffer:5000 $references)
    [ "${COFFER_SEED_VOLUME-unset}" != unset ] || set_env COFFER_SEED_VOLUME "$seed"
}

say "Migrating the database and registering the datastores ..."
compose run --rm migrate
printf '%s\n' "$pushed" | compose run --rm -T migrate coffer-manage register --state /run/coffer

say "Starting Coffer${COFFER_PROFILES:+ with $COFFER_PROFILES} ..."
[ -n "$COFFER_PROFILES" ] || compose --profile keystone rm -sf keystone api-keystone > /dev/null 2>&1 || :
compose up -d --wait --remove-orphans

# --- seeds of earlier images, once no machine has links into them ---
for old in $(docker volume ls -q --filter "label=coffer.stack=$COFFER_STACK" --filter label=coffer.seed --filter dangling=true |
    grep "^$COFFER_STACK-seed-" | grep -vx -e "$seed" -e "${COFFER_SEED_VOLUME:-$seed}"); do
    [ -n "$(docker volume ls -q --filter "label=coffer.seed=$old")" ] || docker volume rm "$old" > /dev/null || :
done

[ $COFFER_CLOUD = docker ] || {
    say "Taking over the flavors of the cloud ..."
    compose run --rm -T migrate coffer-manage flavor sync --state /run/coffer --clouds /run/openstack/clouds.yaml \
        --cloud "$(sed -n 's/^COFFER_OPENSTACK_CLOUD=//p' "$settings")"
    cat << TEXT

Coffer runs. Its API: http://$(compose port api 8779) (the catalogue's entry leads there, see deploy/openstack/prepare.sh).
  openstack --os-cloud YOURS database instance list
Stop it with \`make down\` (data stays).
TEXT
    exit 0
}

# --- what a client needs, readable by its owner only ---
ports=$(sed -n "s/^COFFER_API_PORTS=//p" "$settings")
ports=${ports:-8779-8780} api=127.0.0.1:${ports%%-*}
prometheus=$(compose port prometheus 9090)
swift=$(compose port swift 8080 2> /dev/null) || swift=
compose run --rm -T --no-deps init coffer-manage clients --state /state --endpoint "http://$api/v1.0" \
    --swift "${swift:+http://$swift}" > "$state/clients.json.new"
mv "$state/clients.json.new" "$state/clients.json"
python3 - "$state" <<'PY'
import json, pathlib, sys
state = pathlib.Path(sys.argv[1])
known = json.loads((state / "clients.json").read_text())
lines = [f"export OS_AUTH_TYPE=http_basic OS_ENDPOINT={known['endpoint']} "
         f"OS_USERNAME={known['user']} OS_PASSWORD={known['password']}\n"]
if store := known.get("object_store"):
    lines.append(f"export ST_AUTH={store['auth_url']} ST_USER={store['user']} ST_KEY={store['key']}\n")
(state / "openrc").write_text("".join(lines))
PY

rm -f "$state/clouds.yaml"
[ -z "$COFFER_PROFILES" ] || {
    keystone=$(compose port keystone 5000)
    compose run --rm -T --no-deps init coffer-manage clouds --state /state --auth-url "http://$keystone/v3" \
        > "$state/clouds.yaml.new"
    mv "$state/clouds.yaml.new" "$state/clouds.yaml"
}

cat <<TEXT

Coffer runs.
  API         http://$api   (its second replica: http://127.0.0.1:${ports##*-})
  Prometheus  http://$prometheus
  Swift       ${swift:+http://$swift}   (where backups are; $state/clients.json has each tenant's key)
Try it:
  make demo                 the main job, end to end
  . $state/openrc           then, with python-openstackclient and python-troveclient installed:
  openstack database instance list
${keystone:+With Keystone, http://$keystone (the API that asks it: http://$(compose port api-keystone 8779)), in a shell without the above:
  OS_CLIENT_CONFIG_FILE=$state/clouds.yaml openstack --os-cloud coffer database instance list
}Stop it with \`make down\` (data stays) or \`make clean\` (nothing stays).
TEXT
