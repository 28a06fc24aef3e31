// Package e2e tests the manager as it is shipped: the binary, with the rights of its ServiceAccount, against a real API
// server, Vault and PostgreSQL. The tests have the build tag "integration".
//
// bed_test.go starts the servers. rig_test.go gives each test its own namespace, Vault mounts and provider.
package e2e
