// Package vault leases credentials from Vault and OpenBao. Driver implements backend.Driver, Backend implements
// backend.Backend and its optional abilities. The ways to log in are in the package auth.
//
// The package speaks HTTP itself and does not use the client of github.com/hashicorp/vault/api, for three reasons. Each
// has a test.
//   - That client reads VAULT_* from the environment even if it gets a configuration, so an operator's shell could
//     change where credentials come from.
//   - It uses Go's HTTP transport, which sends a GET again if a kept-alive connection breaks before the response. A GET
//     mints a credential.
//   - It follows the redirect of a standby. A standby also redirects after its own forwarding broke halfway, so two
//     credentials would be minted; see issue.go.
//
// Namespaces (Vault Enterprise and OpenBao) are sent as a header with each request. Tokens live in the provider's
// namespace: logins and all requests about a token are sent there. The lease lives in the namespace of its request,
// which the record contains: requests about the lease are sent there.
//
// Each fact about Vault that the code relies on is stated next to the code, with its source. The integration tests
// (build tag "integration") check every error text that the code distinguishes on a real server.
package vault
