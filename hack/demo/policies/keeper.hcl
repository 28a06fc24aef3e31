# The keeper's policy: it renews and ends what workloads have leased. Renewing
# and looking up leases by id is in Vault's `default` policy already.
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
# To notice at once what others revoke; without it each lease is looked up.
path "sys/leases/lookup/*" {
  capabilities = ["list", "sudo"]
}
