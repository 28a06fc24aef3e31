# The issuer's policy: what a workload may lease, and nothing else.
path "database/creds/orders" {
  capabilities = ["read"]
}
