package backend

import (
	"context"
	"errors"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// Limiter is the ability of a backend whose requests are limited.
type Limiter interface {
	// Admit reserves a place for an issuance from a path, before its login. first is false for the other paths of an
	// object: it uses one worker. Call done once with the result of the request. Busy: there is no place; who is
	// woken when there may be one. Unavailable: the path does not respond.
	Admit(path string, first bool, who Waiter) (done func(error), err error)
}

// ErrNotSent is the result of a request that was not sent after all. It says nothing about the path.
var ErrNotSent = errors.New("the request was not sent")

// Admit reserves a place for an issuance, if the backend has limits.
func Admit(b Backend, path string, first bool, who Waiter) (done func(error), err error) {
	if l, ok := As[Limiter](b); ok {
		return l.Admit(path, first, who)
	}
	return func(error) {}, nil
}

const (
	// waitBriefly is the pause between two tries to get a place among requests that seem to be well, and maxBriefWaits
	// how many there are: together as long as a request may take before the line seems to hang.
	waitBriefly   = 20 * time.Millisecond
	maxBriefWaits = int(slow / waitBriefly)
)

// AdmitTo reserves a place for requests that no backend serves, such as writes to a namespace of the API server. They
// are limited like the operations of a backend. Call done once with the result. While the others seem to be well, it
// waits for a place for a second at most: such a request often records something that was already done.
func (l *Limits) AdmitTo(ctx context.Context, operation, path string) (done func(error), err error) {
	for i := 0; ; i++ {
		done, err = l.admit(lineKey{operation: operation, path: path}, false, Waiter{})
		if i == maxBriefWaits || !isBrief(err) {
			return done, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(waitBriefly):
		}
	}
}

// isBrief says that there will soon be a place.
func isBrief(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == Busy && e.RetryAfter == retrySoon
}

// Hangs says that such a request seems to hang, or that the last one got no response.
func (l *Limits) Hangs(operation, path string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := lineKey{operation: operation, path: path}
	in := l.lines[key]
	return in != nil && in.suspect(key, l.clock.Now())
}

// Wrap limits the requests to the backend of a provider.
func (l *Limits) Wrap(b Backend, p v1alpha1.Provider) Backend {
	return limited{next: b, limits: l, of: keyOf(p)}
}

type limited struct {
	next   Backend
	limits *Limits
	of     providerKey
}

// Unwrap returns the backend that is limited.
func (l limited) Unwrap() Backend { return l.next }

// Admit implements Limiter.
func (l limited) Admit(path string, first bool, who Waiter) (done func(error), err error) {
	return l.admit(lineKey{l.of, opIssue, path}, first, who)
}

// admit reserves a place. It reads the time of the backend's last outage before and after the request.
func (l limited) admit(key lineKey, issues bool, who Waiter) (done func(error), err error) {
	l.noteOutage()
	finish, err := l.limits.admit(key, issues, who)
	if err != nil {
		return nil, err
	}
	return func(result error) {
		l.noteOutage()
		finish(result)
	}, nil
}

func (l limited) noteOutage() {
	if reporter, ok := As[OutageReporter](l.next); ok {
		l.limits.noteOutage(l.of, reporter.LastOutage())
	}
}

// decorate limits the reads of the backend.
func (l limited) decorate(ability any) {
	if a, ok := ability.(*Reader); ok {
		*a = limitedReader{l, *a}
	}
}

type limitedReader struct {
	limited limited
	next    Reader
}

func (r limitedReader) Read(ctx context.Context, who Identity, src v1alpha1.SecretSource) (Response, error) {
	path := ""
	if src.Vault != nil {
		path = src.Vault.Path
	}
	return limit(r.limited, "read", path, func() (Response, error) { return r.next.Read(ctx, who, src) })
}

// limit sends a request about a path unless the path is at a limit.
func limit[T any](l limited, operation, path string, do func() (T, error)) (result T, err error) {
	done, err := l.admit(lineKey{l.of, operation, path}, false, Waiter{})
	if err != nil {
		return result, err
	}
	defer func() { done(err) }()
	return do()
}

// Login is limited by Admit.
func (l limited) Login(ctx context.Context, who Identity) (Session, error) {
	return l.next.Login(ctx, who)
}

// Issue is limited by Admit.
func (l limited) Issue(ctx context.Context, s Session, src v1alpha1.SecretSource) (Response, error) {
	return l.next.Issue(ctx, s, src)
}

func (l limited) Renew(ctx context.Context, rec v1alpha1.LeaseRecord, increment time.Duration) (lease.Term, error) {
	return limit(l, "renew", rec.Location(), func() (lease.Term, error) { return l.next.Renew(ctx, rec, increment) })
}

func (l limited) ExtendSession(ctx context.Context, rec v1alpha1.LeaseRecord, owner Owner) (lease.Term, error) {
	return limit(l, "extend_session", rec.Location(), func() (lease.Term, error) {
		return l.next.ExtendSession(ctx, rec, owner)
	})
}

func (l limited) Revoke(ctx context.Context, rec v1alpha1.LeaseRecord, owner Owner) error {
	_, err := limit(l, "revoke", rec.Location(), func() (struct{}, error) {
		return struct{}{}, l.next.Revoke(ctx, rec, owner)
	})
	return err
}

func (l limited) Lookup(ctx context.Context, rec v1alpha1.LeaseRecord) error {
	_, err := limit(l, "lookup", rec.Location(), func() (struct{}, error) {
		return struct{}{}, l.next.Lookup(ctx, rec)
	})
	return err
}
