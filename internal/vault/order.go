package vault

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Order is to revoke leases, whoever's they are: those below Prefix, or the one of LeaseID.
type Order struct {
	// Namespace of Vault Enterprise or OpenBao; empty: the provider's.
	Namespace string
	// Prefix of paths, in whole segments, with a slash at its end or without.
	Prefix string
	// LeaseID of one lease; empty where there is a Prefix.
	LeaseID string
	// Force makes RevokeOne have Vault forget a lease whose revocation fails.
	Force bool
}

// String is how messages call what is ordered.
func (o Order) String() string {
	if o.LeaseID != "" {
		return "lease " + o.LeaseID
	}
	return "leases below " + o.folder() + "/"
}

func (o Order) folder() string { return strings.TrimSuffix(o.Prefix, "/") }

// Covers says whether a lease is one of those that are ordered. Vault goes by whole segments: a prefix that has no slash at
// its end is a lease's whole id, if there is such a lease, or else gets one (revokePrefixCommon in vault/expiration.go).
func (o Order) Covers(id string) bool {
	if o.LeaseID != "" {
		return id == o.LeaseID
	}
	return id == o.folder() || strings.HasPrefix(id, o.folder()+"/")
}

// sound says whether it may be sent. The API server has looked at it already; an order below auth/ would end logins, so
// that is not left to one look.
func (o Order) sound() error {
	target := o.folder()
	if o.LeaseID != "" {
		target = o.LeaseID
	}
	if !isPath(target) || (o.LeaseID != "") == (o.Prefix != "") {
		return backend.Errorf(backend.Misconfigured, "%q is not what leases can be revoked by", cut(oneLine(target), 128))
	}
	return nil
}

// path of the request that carries it out. Vault takes none with a slash at its end.
func (o Order) path() string {
	if o.LeaseID != "" {
		return "sys/leases/revoke"
	}
	return "sys/leases/revoke-prefix/" + o.folder()
}

// policyLine is a line of a policy.
type policyLine struct {
	// asked is the path that is asked for, path the one that the line should have.
	asked, path  string
	capabilities []string
}

func (l policyLine) String() string {
	return fmt.Sprintf(`path %q { capabilities = ["%s"] }`, l.path, strings.Join(l.capabilities, `", "`))
}

// lines that the keeper's policy must have for the order: to look, to revoke, and, where it is to, to force.
func (o Order) lines() []policyLine {
	const force = "sys/leases/revoke-force/"
	sudo := []string{"update", "sudo"}
	if o.LeaseID != "" {
		lines := []policyLine{
			{"sys/leases/lookup", "sys/leases/lookup", []string{"update"}},
			{"sys/leases/revoke", "sys/leases/revoke", []string{"update"}},
		}
		if o.Force {
			lines = append(lines, policyLine{force + o.LeaseID, force + o.LeaseID, sudo})
		}
		return lines
	}
	below := o.folder() + "/"
	lines := []policyLine{
		{"sys/leases/lookup/" + below, "sys/leases/lookup/" + below + "*", []string{"list", "sudo"}},
		{o.path(), o.path(), sudo},
	}
	if o.Force {
		lines = append(lines, policyLine{force + below, force + below + "*", sudo})
	}
	return lines
}

// refused makes one error of a refusal, that names every line which the order needs and the keeper lacks, so that they can be
// added at once.
func (b *Backend) refused(ctx context.Context, o Order, err error) error {
	if backend.KindOf(err) != backend.Denied || or(o.Namespace, b.spec.Namespace) != b.spec.Namespace {
		return err // what it may do in another namespace is not known here
	}
	needed := o.lines()
	var asked []string
	for _, line := range needed {
		asked = append(asked, line.asked)
	}
	has, unknown, askErr := b.capabilities(ctx, asked)
	if askErr != nil {
		return err
	}
	var missing []string
	for _, line := range needed {
		if unknown != "" || !covers(has[line.asked], line.capabilities...) {
			missing = append(missing, line.String())
		}
	}
	if len(missing) == 0 { // by a policy of another kind, which nobody can ask about
		return err
	}
	fault := backend.Errorf(backend.Denied, "revoking %s: policy of %s lacks %s", o, b.keeperName(), strings.Join(missing, " and "))
	fault.Err = err
	return fault
}

// maxFolders bounds a list that a server could make endless.
const maxFolders = 10_000

// Matching lists the ids of the leases that the order is about and Vault has, those too that ran out and cannot be revoked.
func (b *Backend) Matching(ctx context.Context, o Order) ([]string, error) {
	if err := o.sound(); err != nil {
		return nil, err
	}
	if o.LeaseID != "" {
		found, err := b.lookup(ctx, o.record(o.LeaseID))
		if err != nil || found == leaseUnknown {
			return nil, b.refused(ctx, o, err)
		}
		return []string{o.LeaseID}, nil
	}
	ids, err := b.listBelow(ctx, o)
	if err != nil || len(ids) > 0 || !ofPath(path.Dir(o.folder()), o.folder()) {
		return ids, b.refused(ctx, o, err)
	}
	// The prefix may be a whole id.
	found, err := b.lookup(ctx, o.record(o.folder()))
	if err != nil || found == leaseUnknown {
		return nil, b.refused(ctx, o, err)
	}
	return []string{o.folder()}, nil
}

func (b *Backend) listBelow(ctx context.Context, o Order) ([]string, error) {
	var ids []string
	folders := []string{o.folder()}
	for i := 0; i < len(folders); i++ {
		if len(folders) > maxFolders {
			return nil, backend.Errorf(backend.InvalidResponse, "listing the %s: more than %d paths", o, maxFolders)
		}
		keys, err := b.listKeys(ctx, o.Namespace, folders[i])
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			name, nested := strings.CutSuffix(key, "/")
			switch id := folders[i] + "/" + name; {
			case nested && isPath(id):
				folders = append(folders, id)
			case !nested && name != "":
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

// RevokeAll gives Vault the order, and does not wait for what comes of it: Vault marks every lease as expired before it answers,
// so that none can be renewed or is found alive any more, and ends them in the background, many at a time, again and again
// where that fails (six times in about ten minutes). Asked to wait it would take them one by one, and stop at the first that
// fails, leaving those behind it alive.
//
// It is safe to repeat, but takes what was leased since.
func (b *Backend) RevokeAll(ctx context.Context, o Order) error {
	if err := o.sound(); err != nil {
		return err
	}
	body := map[string]any{"sync": false}
	if o.LeaseID != "" {
		body["lease_id"] = o.LeaseID
	}
	// Thousands take it seconds. It goes on with what it has begun even when nobody waits.
	return b.carryOut(ctx, o, "revoking "+o.String(), o.lines()[1], call{path: o.path(), body: body, timeout: b.issueTimeout})
}

// RevokeOne revokes one of the order's leases and waits for it: what Vault says when that fails is the error. With Force
// Vault forgets the lease then.
func (b *Backend) RevokeOne(ctx context.Context, o Order, id string) error {
	rec := o.record(id)
	switch {
	case !ofPath(rec.Path, id) || !o.Covers(id):
		return foreign(rec.Path)
	case !o.Force:
		return b.revoke(ctx, rec)
	}
	// A whole id is taken for one before it is taken for a prefix.
	lines := o.lines()
	return b.carryOut(ctx, o, "revoking a lease of "+rec.Path+" by force", lines[len(lines)-1],
		call{path: "sys/leases/revoke-force/" + id, body: map[string]any{}, timeout: b.issueTimeout})
}

func (b *Backend) carryOut(ctx context.Context, o Order, what string, line policyLine, c call) error {
	c.method, c.namespace = http.MethodPut, or(o.Namespace, b.spec.Namespace)
	r, err := b.asKeeper(ctx, c)
	if err != nil || succeeded(r.status) {
		return err
	}
	return b.refused(ctx, o, b.fault(r, what, b.keeperName(), line.String()))
}

// Lives says whether a lease is there and not expired. An id that is not in the form of Vault's own is taken to be.
func (b *Backend) Lives(ctx context.Context, o Order, id string) (bool, error) {
	rec := o.record(id)
	if !ofPath(rec.Path, id) {
		return true, nil
	}
	found, err := b.lookup(ctx, rec)
	return found == leaseAlive, err
}

func (o Order) record(id string) v1alpha1.LeaseRecord {
	return v1alpha1.LeaseRecord{VaultNamespace: o.Namespace, Path: path.Dir(id), ID: id}
}
