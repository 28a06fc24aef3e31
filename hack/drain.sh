#!/usr/bin/env bash
# Deletes all DynamicSecrets and waits until their leases are ended; tells how many are left, what they wait for, what comes
# back, and what was abandoned. Arguments are kubectl's, such as --context=staging.
#
# Ends with 0 when every lease was revoked; 1 when some were abandoned, which are named; 2 when objects are left after
# DRAIN_TIMEOUT seconds (5400: the usual revocationDeadline of an hour, and room).
set -euo pipefail

deadline=$((SECONDS + ${DRAIN_TIMEOUT:-5400}))
flags=("$@")

kubectl() { command "${KUBECTL:-kubectl}" "$@" ${flags[@]+"${flags[@]}"}; }

# One line each: namespace/name, uid, since when it is being deleted, what it waits for.
objects() {
  kubectl get dynamicsecrets.leasekeeper.io --all-namespaces -o jsonpath='{range .items[*]}{.metadata.namespace}/{.metadata.name}{"\t"}{.metadata.uid}{"\t"}{.metadata.deletionTimestamp}{"\t"}{.status.conditions[?(@.type=="Ready")].message}{"\n"}{end}'
}

# Events live for an hour, so they are collected on the way.
abandoned() {
  kubectl get events --all-namespaces --field-selector reason=LeaseAbandoned -o jsonpath='{range .items[*]}{.metadata.uid}{"\t"}{.involvedObject.kind} {.involvedObject.namespace}/{.involvedObject.name}: {.message}{"\n"}{end}'
}

say() { echo "$(date +%T) $*"; }
waiting() { awk -F'\t' '{print "         " $1 ": " $4}' <<<"$left"; }

before=$(abandoned)
told='' seen='' left='' count='' last='' spoke=0
while true; do
  # A look that fails says nothing: neither that all are gone nor that any is left.
  if look=$(objects) && events=$(abandoned); then
    left=$look told+=$events$'\n'
    [ -n "$left" ] || break
    for name in $(awk -F'\t' 'NR == FNR {uid[$1] = $2; next} $1 in uid && uid[$1] != $2 {print $1}' <(echo "$seen") <(echo "$left")); do
      say "$name was made again: suspend what applies it (GitOps), or it comes back for ever"
    done
    seen+=$left$'\n'
    count=$(wc -l <<<"$left")
    if [ "$count" != "$last" ]; then
      say "$((count)) left"
      last=$count spoke=$SECONDS
    elif ((SECONDS - spoke >= 20)); then
      say "$((count)) left still:"
      waiting | head -10
      spoke=$SECONDS
    fi
    if awk -F'\t' '$3 == "" {found = 1} END {exit !found}' <<<"$left"; then
      kubectl delete dynamicsecrets.leasekeeper.io --all --all-namespaces --wait=false >/dev/null || true
    fi
  fi
  if ((SECONDS >= deadline)); then
    say "gave up waiting for:"
    waiting
    exit 2
  fi
  sleep 2
done

# The last events are on their way when the last object is gone.
sleep 3
told+=$(abandoned)
new=$(awk -F'\t' 'NR == FNR {old[$1]; next} $1 != "" && !($1 in old) && !($1 in new) {new[$1]; print "         " $2}' <(echo "$before") <(echo "$told"))
if [ -n "$new" ]; then
  say "no DynamicSecret is left, but leases were abandoned, which end by themselves or by your hand:"
  echo "$new"
  exit 1
fi
say "no DynamicSecret is left, and no lease was abandoned"
