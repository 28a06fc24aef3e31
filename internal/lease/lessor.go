package lease

import (
	"context"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Lessor is a backend that leases credentials, seen through one provider. Implementations are safe for concurrent use.
//
// Every error that comes from the backend or from the way to it is an *Error; its Kind decides what happens next.
// Login and Issue are never repeated by the implementation: an answer that was lost may have minted. Renew, ExtendToken,
// End and Lookup are safe to repeat. No error, and nothing else that an implementation hands out besides Session and
// Answer.Data, holds a credential or a token.
type Lessor interface {
	// Login becomes the workload and returns a session for one issue. Checks what can be checked of the token: it
	// has an accessor (is no batch token) and is not limited in its uses. A token that fails those checks is ended
	// again before the error is returned.
	Login(ctx context.Context, who Identity) (Session, error)

	// Issue asks for the credential with the session's token. Unanswered means that the backend may still be
	// minting. Every other kind of error means that the backend itself has answered and that nothing is alive but
	// the session's token.
	Issue(ctx context.Context, s Session, req Request) (Answer, error)

	// Renew extends the lease of the record by its id. The increment replaces the time that is left, so the caller
	// must not ask for less. Kind Gone means that the backend does not know the lease, or that it is expired; no
	// other error does.
	Renew(ctx context.Context, rec v1alpha1.LeaseRecord, increment time.Duration) (Term, error)

	// ExtendToken extends the issuing token of the record by its accessor, as far as it goes, after asking the backend
	// whether it is the owner's, as End does (else: Mismatch, and nothing is done). Kind Gone means that
	// the token is no more.
	ExtendToken(ctx context.Context, rec v1alpha1.LeaseRecord, owner Owner) (Term, error)

	// End ends the record: its token by its accessor, after asking the backend whether that token came from this
	// provider's auth mount and for the owner's namespace (else: Mismatch, and nothing is done); then its lease by
	// its id, synchronously, where it still exists. A nil error means that the backend has said that the lease is
	// gone (or, for a record without an id, that the token is). Safe to repeat.
	End(ctx context.Context, rec v1alpha1.LeaseRecord, owner Owner) error

	// Lookup asks for the lease of the record by its id. Gone: it is no more, or dead. A nil error: it lives.
	Lookup(ctx context.Context, rec v1alpha1.LeaseRecord) error
}

// Identity is who logs in to issue.
type Identity struct {
	// Namespace of the DynamicSecret, and so of its ServiceAccount.
	Namespace string
	// ServiceAccount is spec.serviceAccountName; empty: the provider's.
	ServiceAccount string
	// Owner goes into the metadata of tokens that leasekeeper itself creates (token auth).
	Owner Owner
	// MinTTL is how long the token must live at the least; a shorter one is extended before Login returns.
	MinTTL time.Duration
}

// Owner is the DynamicSecret that a record belongs to.
type Owner struct {
	Namespace string
	Name      string
	UID       string
}

// Session is a token for one issue.
type Session struct {
	// Token is the secret itself. It stays in memory.
	Token string
	// Accessor names the token without giving access.
	Accessor string
	// TTL of the token as granted; 0: it does not expire.
	TTL time.Duration
	// At is when the login was sent: the token lives at least until At + TTL.
	At time.Time
	// Renewable says whether the token can be extended (further).
	Renewable bool
}

// Request is what to ask for.
type Request struct {
	// Namespace of Vault Enterprise or OpenBao, provider's default applied.
	Namespace string
	// Path with its mount.
	Path string
	// Write sends parameters as a body instead of a query.
	Write bool
	// Parameters: raw JSON by name.
	Parameters map[string][]byte
}

// Answer is what the backend gave.
type Answer struct {
	// LeaseID is empty for an answer without a lease, whatever the duration says.
	LeaseID string
	// Term of the lease; without meaning where there is none.
	Term Term
	// Data becomes the data of the Secret: unwrapped (KV version 2), every value as bytes.
	Data map[string][]byte
}

// Term is what the backend granted.
type Term struct {
	// At is when the request was sent, so that At + Duration is never later than the true end.
	At time.Time
	// Duration granted.
	Duration time.Duration
	// Renewable as the backend says.
	Renewable bool
	// Capped is true when the backend said that it granted less because of a maximum.
	Capped bool
}
