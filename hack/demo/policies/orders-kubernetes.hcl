# The issuer's policy where the demo has no PostgreSQL: ServiceAccounts that
# Vault's kubernetes engine creates are leased instead.
path "cluster/creds/orders" {
  capabilities = ["update"]
}
