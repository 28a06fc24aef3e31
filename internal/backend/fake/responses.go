package fake

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// kindOf is the kind of the responses of a path.
func (b *Backend) kindOf(path string) v1alpha1.ResponseKind {
	switch {
	case b.Unleased || strings.HasPrefix(path, "kv/"):
		return v1alpha1.ResponseStatic
	case strings.HasPrefix(path, "static/"):
		return v1alpha1.ResponseScheduled
	case strings.HasPrefix(path, "pki/"):
		return v1alpha1.ResponseExpiring
	}
	return v1alpha1.ResponseLeased
}

// Read requests a source again. Its session is not modelled.
func (b *Backend) Read(_ context.Context, _ backend.Identity, src v1alpha1.SecretSource) (backend.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	path := src.Vault.Path
	switch f, now := b.begin("read"); {
	case f == Down:
		return backend.Response{}, errDown
	case f == Error:
		return backend.Response{}, backend.Errorf(backend.Failed, "the storage is down")
	case f != None:
		return backend.Response{}, errLost
	case b.kindOf(path) == v1alpha1.ResponseLeased:
		b.mint("", path, now).revoked = true
		return backend.Response{}, backend.Errorf(backend.InvalidResponse, "reading %q again returned a lease", path)
	default:
		return b.respond("", path, now), nil
	}
}

// respond is the response of a path. It mints what is leased or expires.
func (b *Backend) respond(accessor, path string, now time.Time) backend.Response {
	r := backend.Response{Kind: b.kindOf(path), Term: lease.Term{At: now}}
	switch r.Kind {
	case v1alpha1.ResponseLeased:
		c := b.mint(accessor, path, now)
		user := c.id
		if b.OneUser != "" {
			user = b.OneUser
		}
		r.LeaseID, r.Data = c.id, map[string][]byte{"username": []byte(user)}
		r.Term.Duration, r.Term.Renewable = b.TTL, b.Renewable
	case v1alpha1.ResponseExpiring:
		serial := b.mint(accessor, path, now).id
		r.Data, r.Term.Duration, r.Revocable = map[string][]byte{"certificate": []byte(serial)}, b.TTL, b.Revocable
		if r.Revocable {
			r.Identify = func(rec *v1alpha1.LeaseRecord) { identify(rec, serial) }
		}
	case v1alpha1.ResponseScheduled:
		rotations := now.Sub(b.started) / b.RotationPeriod
		last := b.started.Add(rotations * b.RotationPeriod)
		r.Term.Duration = last.Add(b.RotationPeriod).Sub(now)
		r.Volatile = []string{"ttl", "last_vault_rotation"}
		r.Data = map[string][]byte{
			"password":            []byte(fmt.Sprintf("%s-%d", path, rotations)),
			"ttl":                 []byte(fmt.Sprint(int64(r.Term.Duration / time.Second))),
			"last_vault_rotation": []byte(last.Format(time.RFC3339)),
		}
	case v1alpha1.ResponseStatic:
		r.Term.Duration = 768 * time.Hour
		value, ok := b.values[path]
		if !ok {
			value = "same"
		}
		r.Data = map[string][]byte{"value": []byte(value)}
	}
	return r
}

func identify(rec *v1alpha1.LeaseRecord, serial string) {
	if rec.Vault != nil {
		block := *rec.Vault // another record may share it
		block.SerialNumber = serial
		rec.Vault = &block
	}
}
