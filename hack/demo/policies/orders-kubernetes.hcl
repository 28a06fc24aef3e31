# The issuer's policy without PostgreSQL: lease ServiceAccounts from Vault's kubernetes engine.
path "cluster/creds/orders" {
  capabilities = ["update"]
}
