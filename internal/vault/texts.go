package vault

import (
	"fmt"
	"slices"
	"strings"
)

// meaning of an error text or a warning of a server.
type meaning int

const (
	// leaseGone proves that the lease does not exist, or has expired.
	leaseGone meaning = iota
	// tokenGone proves that the token does not exist. The texts about a lease are about the lease of the token.
	tokenGone
	// tokenInvalid: the token of the request itself does not exist.
	tokenInvalid
	// notHandled: the node rejected the request before it handled it, because it is sealed, or because it is a standby
	// and no node is active. So nothing was done.
	notHandled
	// namespaceSealed: the namespace of the request is sealed, and others are not.
	namespaceSealed
	// noActiveNode: a standby found no active node, perhaps after it had forwarded the request to one and lost it.
	noActiveNode
	// lostActive: the node stopped being active while it handled the request.
	lostActive
	// stillActing: Vault stopped waiting. A database, a plugin or the active node may still act.
	stillActing
	// engineDown: an engine cannot reach what it manages, or that cannot serve now. Vault responds 400 to a renewal
	// then, as to one that it will never accept.
	engineDown
	// leaseQuota: a quota permits no more leases.
	leaseQuota
	// noneAvailable: all accounts of a library of the ldap engine are in use.
	noneAvailable
	// unsupported: the path does not accept this operation.
	unsupported
	// unknownSerial: the pki engine does not have the certificate.
	unknownSerial
	// ttlCapped is a warning: Vault granted less because of a maximum.
	ttlCapped
	// versionedKV is a warning: the path is one of a KV engine of version 2, without data/.
	versionedKV
	// plainHTTP: the server expects TLS. Go's HTTP server sends it, not Vault.
	plainHTTP
)

// matching says how a text is found.
type matching int

const (
	// whole: one of the error texts equals it. A part does not count, because an engine's own error, which may quote
	// anything, is in the same place.
	whole matching = iota
	// start: one of the error texts begins with it, after its verbs were replaced.
	start
	// part: it is anywhere in the error texts, in any case. Only for texts for which a false match does no harm.
	part
	// warning: it is part of a warning.
	warning
)

// knownText is a text that the code classifies.
type knownText struct {
	means    meaning
	matching matching
	text     string
	// servers that send it, as far as their sources or the servers themselves were checked.
	servers servers
	// origin is where it is in the source of those servers, or why it is here.
	origin string
}

// servers is a set of servers and versions.
type servers uint8

const (
	// vault119 is 1.19.5, vault121 is 1.21.0. Both were checked as a whole.
	vault119 servers = 1 << iota
	vault121
	// vault2 is what the SDK 0.25.1 of Vault 2 contains. The server's own source was not checked.
	vault2
	// openBao is 2.6.2.
	openBao
	// library: not the server's own text, but that of a library or of a database behind an engine.
	library

	// everyServer has the text in its own source; in Vault 2 that is assumed, because 1.19 and 1.21 agree.
	everyServer = vault119 | vault121 | openBao
	everySDK    = everyServer | vault2
)

// knownTexts are all texts that the code classifies, in this package. TestEveryTextIsARealServers provokes those of
// Vault's and OpenBao's own that a test can provoke.
var knownTexts = []knownText{
	{leaseGone, whole, "lease not found", everyServer, "vault/expiration.go: renewal of a revoked lease"},
	{leaseGone, whole, "lease expired", everyServer, "vault/expiration.go: renewal of an expired lease"},
	{leaseGone, whole, "invalid lease", everyServer, "vault/logical_system.go: look-up of either"},

	{tokenGone, whole, "invalid accessor", everyServer, "vault/token_store.go: look-up, extension and revocation"},
	{tokenGone, whole, "token not found", everyServer, "vault/token_store.go: the accessor exists, the token does not"},
	{tokenGone, whole, "invalid lease ID", everyServer, "vault/expiration.go: extension of a token without its lease"},
	{tokenGone, whole, "lease not found", everyServer, "vault/expiration.go: extension of a token without its lease"},
	{tokenGone, whole, "lease expired", everyServer, "vault/expiration.go: extension of an expired token"},

	// OpenBao sends only "permission denied" for an unknown token, so there it looks like a missing policy line.
	{tokenInvalid, whole, "invalid token", vault119 | vault121 | vault2, "sdk/logical/error.go: with status 403"},
	{tokenInvalid, whole, "bad token", everyServer, "vault/request_handling.go: a malformed or foreign token"},

	{notHandled, whole, "Vault is sealed", everySDK, "sdk/helper/consts/error.go: with status 503"},
	{notHandled, whole, "namespace is sealed", openBao, "sdk/helper/consts/error.go: a namespace with its own seal"},
	{namespaceSealed, whole, "namespace is sealed", openBao, "sdk/helper/consts/error.go: the same"},
	{notHandled, whole, "node is not active", everyServer, "http/handler.go: with status 503, without HA"},
	{notHandled, whole, "Vault is in standby mode", everySDK, "sdk/helper/consts/error.go: usually a redirect instead"},
	{notHandled, whole, "local node not active but active cluster node not found", everyServer,
		"http/handler.go: a standby without an active node, with status 500"},
	{notHandled, whole, "active context canceled after getting state lock", everyServer,
		"vault/request_handling.go: the node stopped being active just before the request"},

	{noActiveNode, whole, "no active Vault instance found", everyServer,
		"http/handler.go, respondStandby: with status 503, also after the connection to the active node broke"},

	{lostActive, part, "node is not the leader", library, "hashicorp/raft: a write of a former active node"},
	{lostActive, part, "leadership lost while committing log", library, "hashicorp/raft: the write may be stored"},
	{lostActive, part, "leadership transfer in progress", library, "hashicorp/raft: a step-down"},
	{lostActive, part, "raft is already shutdown", library, "hashicorp/raft: a node that stops"},
	{lostActive, part, "node is not in HA cluster membership", vault119 | vault121,
		"vault/request_forwarding.go: the node was removed from its cluster"},
	{lostActive, part, "cannot write to readonly storage", openBao,
		"sdk/logical/storage.go: a standby of OpenBao 2.5 to 2.6.1 that did not forward"},
	{lostActive, part, "storage is read-only", everyServer, "vault/logical_system.go: the same for a revocation"},

	{stillActing, part, "context deadline exceeded", library, "Go: max_request_duration, or an engine's own limit"},
	{stillActing, part, "context canceled", library, "Go: the client left, or the node stopped being active"},
	{stillActing, part, "i/o timeout", library, "Go's net package"},
	{stillActing, part, "client.timeout exceeded", library, "Go's HTTP client"},
	{stillActing, part, "request forwarding", library, "standbys of earlier versions"},
	{stillActing, part, "rpc error", library, "gRPC, between nodes or to a plugin"},
	{stillActing, part, "connection reset", library, "the kernel"},
	{stillActing, part, "broken pipe", library, "the kernel"},
	{stillActing, part, "unexpected eof", library, "Go's net package"},
	{stillActing, part, "transport is closing", library, "gRPC"},
	{stillActing, part, "timed out", library, "databases"},
	{stillActing, part, "driver: bad connection", library, "Go's database/sql"},

	{engineDown, part, "connect", library, "databases and Go's net package"},
	{engineDown, part, "dial", library, "Go's net package"},
	{engineDown, part, "no such host", library, "Go's net package"},
	{engineDown, part, "unreachable", library, "the kernel"},
	{engineDown, part, "no route to host", library, "the kernel"},
	{engineDown, part, "eof", library, "Go's net package"},
	{engineDown, part, "broken pipe", library, "the kernel"},
	{engineDown, part, "reset", library, "the kernel"},
	{engineDown, part, "closing", library, "gRPC"},
	{engineDown, part, "timeout", library, "Go's net package"},
	{engineDown, part, "timed out", library, "databases"},
	{engineDown, part, "deadline", library, "Go's context package"},
	{engineDown, part, "canceled", library, "Go's context package"},
	{engineDown, part, "try again", library, "databases, and Vault when it is overloaded"},
	{engineDown, part, "too many", library, "MySQL: Too many connections"},
	{engineDown, part, "throttl", library, "clouds"},
	{engineDown, part, "rate exceeded", library, "AWS"},
	{engineDown, part, "forwarding", library, "standbys of earlier versions"},
	{engineDown, part, "shutting down", library, "PostgreSQL"},
	{engineDown, part, "starting up", library, "PostgreSQL"},
	{engineDown, part, "recovery mode", library, "PostgreSQL"},
	{engineDown, part, "read-only", library, "databases after a failover"},
	{engineDown, part, "read only", library, "databases after a failover"},
	{engineDown, part, "unavailable", library, "gRPC and HTTP"},
	{engineDown, part, "sealed", library, "a Vault that is sealed meanwhile, also inside a longer text"},
	{engineDown, part, "sqlstate 08", library, "PostgreSQL: class 08, connection"},
	{engineDown, part, "sqlstate 53", library, "PostgreSQL: class 53, resources"},
	{engineDown, part, "sqlstate 57", library, "PostgreSQL: class 57, shut-down"},

	{leaseQuota, part, "lease count quota exceeded", everySDK, "sdk/logical/error.go: Vault Enterprise"},
	{noneAvailable, whole, "No service accounts available for check-out.", library,
		"hashicorp/vault-plugin-secrets-openldap: path_checkouts.go"},
	{unsupported, whole, "unsupported operation", everySDK, "sdk/logical/error.go: with status 405"},
	{unknownSerial, start, "certificate with serial %s not found", everyServer, "builtin/logical/pki/path_revoke.go"},
	{ttlCapped, warning, "exceeded the effective max_ttl", everySDK, "sdk/framework/lease.go"},
	{versionedKV, warning, "versioned K/V", everyServer, "the KV engine's backend.go"},
	{plainHTTP, part, "HTTP request to an HTTPS server", library, "Go's HTTP server"},
}

// textsOf are the texts with one meaning.
func textsOf(m meaning) []string {
	var texts []string
	for _, known := range knownTexts {
		if known.means == m {
			texts = append(texts, known.text)
		}
	}
	return texts
}

// says reports whether the response has a text with this meaning. The arguments are those of the text.
func (a response) says(m meaning, arguments ...any) bool {
	if a.Errors == nil && len(a.Warnings) == 0 {
		return false
	}
	texts := a.errorTexts()
	// A generated name may contain anything.
	all := strings.ToLower(generatedName.ReplaceAllString(strings.Join(texts, "\n"), ""))
	return slices.ContainsFunc(knownTexts, func(known knownText) bool {
		if known.means != m {
			return false
		}
		switch known.matching {
		case whole:
			return slices.Contains(texts, known.text)
		case start:
			wanted := fmt.Sprintf(known.text, arguments...)
			return slices.ContainsFunc(texts, func(text string) bool { return strings.HasPrefix(text, wanted) })
		case warning:
			return strings.Contains(strings.Join(a.Warnings, " "), known.text)
		}
		return strings.Contains(all, strings.ToLower(known.text))
	})
}

// outage reports whether the response says that no node is active, or that this node is not active any more. That is an
// outage of the server, whatever the status is: Vault responds 400 to a renewal and to a login whose write to the
// storage failed.
func (a response) outage() bool {
	return a.says(notHandled) || a.says(noActiveNode) || a.says(lostActive)
}

// unavailable reports whether the response says that the server, or what it depends on, does not serve now.
func (a response) unavailable() bool { return a.outage() || a.says(engineDown) }
