# The keeper's policy: renew and revoke the workloads' leases. Vault's `default` policy already permits renewing and
# looking up leases by id.
path "auth/token/lookup-accessor" {
  capabilities = ["update"]
}
path "auth/token/renew-accessor" {
  capabilities = ["update"]
}
path "auth/token/revoke-accessor" {
  capabilities = ["update"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}
# Detects out-of-band revocations by listing. Without it each lease is looked up.
path "sys/leases/lookup/*" {
  capabilities = ["list", "sudo"]
}
