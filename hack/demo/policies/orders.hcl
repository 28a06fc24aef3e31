# The issuer's policy: the only path from which the workload may lease.
path "database/creds/orders" {
  capabilities = ["read"]
}
