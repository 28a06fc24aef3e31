// Package vault leases credentials from Vault and OpenBao: it implements lease.Lessor.
//
// It speaks HTTP itself and does not use the client of github.com/hashicorp/vault/api, for three reasons, each of
// which has a test. That client reads VAULT_* from the environment even when it is given a configuration, so that an
// operator's shell could change where credentials come from. Below it, Go's HTTP transport sends a GET again when a
// kept-alive connection breaks before the answer, and a GET is what mints a credential. And it follows a standby's
// redirect, which a standby also answers when its own forwarding broke half way, so that two credentials would be
// minted; see issue.go.
//
// Namespaces (Vault Enterprise and OpenBao) go as a header with each request. Tokens live in the provider's namespace:
// logins, look-ups of an accessor and everything else about tokens go there. The lease lives in the request's
// namespace, which the record keeps: issuing, renewing, looking up and revoking a lease go there.
//
// How the facts that the error mapping rests on were found is said beside each; the integration tests (build tag
// "integration") ask a real server for every text that is told apart.
package vault
