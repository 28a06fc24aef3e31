#!/usr/bin/env bash
# Deletes all DynamicSecrets and waits until their leases are revoked. It reports how many are left and why, which
# objects are created again, and which leases were abandoned. Arguments are passed to kubectl, such as
# --context=staging.
#
# Exit code 0: all leases were revoked. 1: some leases were abandoned; they are listed. 2: objects are left after
# DRAIN_TIMEOUT seconds (default 5400, the default revocationDeadline of an hour plus half an hour).
set -euo pipefail

deadline=$((SECONDS + ${DRAIN_TIMEOUT:-5400}))
flags=("$@")

kubectl() { command "${KUBECTL:-kubectl}" "$@" ${flags[@]+"${flags[@]}"}; }

# One line per object: namespace/name, uid, deletionTimestamp, and the message of its Ready condition.
objects() {
  local line='{.metadata.namespace}/{.metadata.name}{"\t"}{.metadata.uid}{"\t"}{.metadata.deletionTimestamp}'
  line+='{"\t"}{.status.conditions[?(@.type=="Ready")].message}{"\n"}'
  kubectl get dynamicsecrets.leasekeeper.io --all-namespaces -o jsonpath="{range .items[*]}$line{end}"
}

# Collect events during the drain, because they expire after an hour.
abandoned() {
  local line='{.metadata.uid}{"\t"}{.involvedObject.kind} {.involvedObject.namespace}/{.involvedObject.name}'
  line+=': {.message}{"\n"}'
  kubectl get events --all-namespaces --field-selector reason=LeaseAbandoned \
    -o jsonpath="{range .items[*]}$line{end}"
}

log() { echo "$(date +%T) $*"; }
print_left() { awk -F'\t' '{print "         " $1 ": " $4}' <<<"$left"; }

before=$(abandoned)
events='' seen='' left='' count='' last_count='' logged_at=0
while true; do
  # If a request fails, nothing is known about the objects.
  if current=$(objects) && new_events=$(abandoned); then
    left=$current events+=$new_events$'\n'
    [ -n "$left" ] || break
    again=$(awk -F'\t' 'NR == FNR {uid[$1] = $2; next} $1 in uid && uid[$1] != $2 {print $1}' \
      <(echo "$seen") <(echo "$left"))
    for name in $again; do
      log "$name was created again: suspend the GitOps tool that applies it"
    done
    seen+=$left$'\n'
    count=$(wc -l <<<"$left")
    if [ "$count" != "$last_count" ]; then
      log "$((count)) left"
      last_count=$count logged_at=$SECONDS
    elif ((SECONDS - logged_at >= 20)); then
      log "$((count)) still left:"
      print_left | head -10
      logged_at=$SECONDS
    fi
    if awk -F'\t' '$3 == "" {found = 1} END {exit !found}' <<<"$left"; then
      kubectl delete dynamicsecrets.leasekeeper.io --all --all-namespaces --wait=false >/dev/null || true
    fi
  fi
  if ((SECONDS >= deadline)); then
    log "timed out waiting for:"
    print_left
    exit 2
  fi
  sleep 2
done

# The API server may store the last events after the last object is gone.
sleep 3
events+=$(abandoned)
new=$(awk -F'\t' 'NR == FNR {old[$1]; next}
  $1 != "" && !($1 in old) && !($1 in new) {new[$1]; print "         " $2}' <(echo "$before") <(echo "$events"))
if [ -n "$new" ]; then
  log "no DynamicSecret is left, but these leases were abandoned; they expire, or you can revoke them:"
  echo "$new"
  exit 1
fi
log "no DynamicSecret is left, and no lease was abandoned"
