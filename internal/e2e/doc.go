// Package e2e tests the manager as it is shipped: the binary, with the rights of its ServiceAccount, against a real API
// server, Vault and PostgreSQL. The tests have the build tag "integration".
//
// bed_test.go starts the servers, room_test.go gives a test a namespace, a Vault mount and a provider of its own.
package e2e
