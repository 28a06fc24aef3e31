// Package backend defines what leasekeeper needs from a server that leases credentials. It knows no vendor.
//
// A Driver serves one kind of provider; the Registry finds the driver of a provider. backend/fake is an implementation
// in memory, and backend/contract is the test suite that every implementation passes.
package backend

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// Backend leases credentials through one provider. Implementations are safe for concurrent use.
//
// Every error that comes from the server or from the network is an *Error; its Kind decides what happens next. Login
// and Issue are never repeated by the implementation: a lost response may have minted a credential. Renew,
// ExtendSession, Revoke and Lookup are safe to repeat. No error, and nothing else that an implementation returns except
// Session.Token and Response.Data, contains a credential or a token.
type Backend interface {
	// Login opens a session as the workload, for one issuance. It checks everything that can be checked before a
	// credential is minted. A session that fails a check is closed before the error is returned.
	Login(ctx context.Context, who Identity) (Session, error)

	// Issue requests the credential. NoResponse means that the server may still be minting. Every other error means
	// that the server has responded and that nothing outlives the session. A session whose response is not leased owns
	// nothing; Issue closes it.
	Issue(ctx context.Context, s Session, src v1alpha1.SecretSource) (Response, error)

	// Renew extends the lease of the record by its id. The increment replaces the remaining time, so the caller must
	// not request less than what remains. Gone means that the server does not know the lease, or that it has expired;
	// no other error does. Refused means that the server is well and does not extend this lease.
	Renew(ctx context.Context, rec v1alpha1.LeaseRecord, increment time.Duration) (lease.Term, error)

	// ExtendSession extends the session that issued the record as far as the server allows, after it has proved that
	// the session belongs to the owner (otherwise: Mismatch, and nothing is changed). Gone means that the session no
	// longer exists.
	ExtendSession(ctx context.Context, rec v1alpha1.LeaseRecord, owner Owner) (lease.Term, error)

	// Revoke revokes what the record names: its session, after it has proved that the session belongs to the owner
	// (otherwise: Mismatch, and nothing is changed), then its lease, if that still exists. A nil error means that the
	// server has confirmed that the lease is gone (for a record without an id: the session).
	Revoke(ctx context.Context, rec v1alpha1.LeaseRecord, owner Owner) error

	// Lookup checks the lease of the record by its id. Gone: it no longer exists, or it has expired.
	Lookup(ctx context.Context, rec v1alpha1.LeaseRecord) error
}

// Identity is who logs in to issue.
type Identity struct {
	// Namespace of the DynamicSecret, and so of its ServiceAccount.
	Namespace string
	// ServiceAccount to log in as; empty: the provider's default.
	ServiceAccount string
	// Owner is recorded with sessions that leasekeeper itself creates.
	Owner Owner
	// MinTTL is how long the session must live; Login extends a shorter one.
	MinTTL time.Duration
}

// Owner is the DynamicSecret that a record belongs to.
type Owner struct {
	Namespace string
	Name      string
	UID       string
	// Proven is true if leasekeeper itself wrote the record: its seal is valid, or this process holds it. It decides
	// if the server records nothing with a session that tells owners apart.
	Proven bool
}

// Session is a login for one issuance.
type Session struct {
	// Token is the secret. It stays in memory.
	Token string
	// Handle names the session without giving access. It is journaled before the credential is requested.
	Handle string
	// Term of the session. A Duration of 0 means that it does not expire.
	Term lease.Term
	// Inputs are those of a Preparer, for Issue. They stay in memory.
	Inputs any
}

// Response is what the server gave.
type Response struct {
	// Kind says how the response is kept valid.
	Kind v1alpha1.ResponseKind
	// LeaseID of a leased response; empty for every other kind.
	LeaseID string
	// Term of the response. Leased: of the lease. Expiring: until it expires. Scheduled: until the server changes it.
	// Static: until it should be read again; a Duration of 0 means that the server did not say.
	Term lease.Term
	// Data are the fields: unwrapped (KV version 2), every value as bytes, null values omitted.
	Data map[string][]byte
	// Forms are the same data under the keys that a type of Secret needs, by type. They are added to a Secret of it.
	Forms map[corev1.SecretType]map[string][]byte
	// ForeignUser is true if a leased response names a user that is not dropped with the lease, such as the login of a
	// one-time password. Two leases may have it then.
	ForeignUser bool
	// Volatile names the fields that differ in every response, such as a ttl that counts down. They are published, but
	// a difference in them is no change.
	Volatile []string
	// UnknownExpiry is true for a static response whose path is not known to be static: it may expire without notice.
	UnknownExpiry bool
	// Once is true for a static response that another request would replace with another one, such as a data key. It is
	// kept and not read again.
	Once bool
	// Identify adds to the record what Revoke needs besides the id, such as a serial number; nil: nothing.
	Identify func(rec *v1alpha1.LeaseRecord)
	// Revocable is true if Revoke can revoke a response without a lease.
	Revocable bool
}
