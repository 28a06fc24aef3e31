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

var _ backend.BulkRevoker = (*Backend)(nil)

// order selects the leases of a LeaseRevocation: one by its id, or all below a prefix.
type order struct {
	v1alpha1.VaultRevocation
	// name of the selection, for messages.
	name string
}

// orderOf is the order of a spec, with the provider's namespace as the default. It checks again what the API server has
// checked: an order below auth/ would end logins.
func (b *Backend) orderOf(spec *v1alpha1.LeaseRevocationSpec) (order, error) {
	if spec.Vault == nil {
		return order{}, backend.Errorf(backend.Misconfigured, "the provider is a Vault server: set spec.vault")
	}
	o := order{VaultRevocation: *spec.Vault, name: spec.Selection()}
	o.Namespace = or(o.Namespace, b.spec.Namespace)
	target := o.folder()
	if o.LeaseID != "" {
		target = o.LeaseID
	}
	if !isPath(target) || (o.LeaseID != "") == (o.Prefix != "") {
		return order{}, backend.Errorf(backend.Misconfigured,
			"%q is neither the id of a lease nor a prefix of such ids", cut(oneLine(target), 128))
	}
	return o, nil
}

// folder is the prefix without a slash at its end.
func (o order) folder() string { return strings.TrimSuffix(o.Prefix, "/") }

// selects is true if the id is one of those ordered. Vault matches whole segments. A prefix without a slash at its end
// is a lease's whole id, if there is such a lease; otherwise Vault appends the slash (revokePrefixCommon in
// vault/expiration.go).
func (o order) selects(id string) bool {
	if o.LeaseID != "" {
		return id == o.LeaseID
	}
	return id == o.folder() || strings.HasPrefix(id, o.folder()+"/")
}

// path of the request that revokes the leases. Vault accepts none with a slash at its end.
func (o order) path() string {
	if o.LeaseID != "" {
		return "sys/leases/revoke"
	}
	return "sys/leases/revoke-prefix/" + o.folder()
}

// record of one of the leases.
func (o order) record(id string) v1alpha1.LeaseRecord {
	return v1alpha1.LeaseRecord{ID: id, Vault: &v1alpha1.VaultRecord{Namespace: o.Namespace, Path: path.Dir(id)}}
}

// policyLine is a line of a policy.
type policyLine struct {
	// example is a path that the line covers; path is the one that the line should have.
	example, path string
	capabilities  []string
}

func (l policyLine) String() string {
	return fmt.Sprintf(`path %q { capabilities = ["%s"] }`, l.path, strings.Join(l.capabilities, `", "`))
}

// lines that the keeper's policy needs: to list or look up, to revoke, and, if ordered, to force.
func (o order) lines() []policyLine {
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

// expandDenied expands a permission error to all policy lines that the order needs and the keeper lacks, so that they
// can be added together.
func (b *Backend) expandDenied(ctx context.Context, o order, err error) error {
	if backend.KindOf(err) != backend.Denied || o.Namespace != b.spec.Namespace {
		return err // the capabilities in another namespace are unknown
	}
	lines := o.lines()
	var examples []string
	for _, line := range lines {
		examples = append(examples, line.example)
	}
	has, unknown, selfErr := b.capabilities(ctx, examples)
	if selfErr != nil {
		return err
	}
	var missing []string
	for _, line := range lines {
		if unknown != "" || !hasAll(has[line.example], line.capabilities...) {
			missing = append(missing, line.String())
		}
	}
	if len(missing) == 0 { // a policy of another kind denies the request, such as Sentinel
		return err
	}
	denied := backend.Errorf(backend.Denied, "revoking %s: policy of %s lacks %s",
		o.name, b.keeperName(), strings.Join(missing, " and "))
	denied.Err = err
	return denied
}

// Covers implements backend.BulkRevoker.
func (b *Backend) Covers(spec *v1alpha1.LeaseRevocationSpec, rec *v1alpha1.LeaseRecord) bool {
	o, err := b.orderOf(spec)
	if err != nil || rec.Vault == nil {
		return false
	}
	return rec.Vault.Address == b.spec.Address && rec.Vault.Namespace == o.Namespace && o.selects(rec.ID)
}

// maxFolders limits a list that a faulty server could make endless.
const maxFolders = 10_000

// ListNext implements backend.BulkRevoker.
func (b *Backend) ListNext(ctx context.Context, spec *v1alpha1.LeaseRevocationSpec, l *backend.Listing) error {
	o, err := b.orderOf(spec)
	switch {
	case err != nil:
		return err
	case o.LeaseID != "":
		return b.listOne(ctx, o, o.LeaseID, l)
	case l.Listed == 0:
		l.Pending = []string{o.folder()}
	}
	if len(l.Pending) > 0 {
		if err := b.listFolder(ctx, o, l); err != nil {
			return b.expandDenied(ctx, o, err)
		}
	}
	switch {
	case len(l.Pending) > 0:
	case len(l.IDs) == 0 && ofPath(path.Dir(o.folder()), o.folder()):
		return b.listOne(ctx, o, o.folder(), l) // the prefix may be a whole id
	default:
		l.Complete = true
	}
	return nil
}

// listOne lists the lease if it exists.
func (b *Backend) listOne(ctx context.Context, o order, id string, l *backend.Listing) error {
	found, err := b.stateOf(ctx, o.record(id))
	if err != nil {
		return b.expandDenied(ctx, o, err)
	}
	if l.Complete = true; found != leaseUnknown {
		l.IDs = []string{id}
	}
	return nil
}

// listFolder lists the next folder.
func (b *Backend) listFolder(ctx context.Context, o order, l *backend.Listing) error {
	folder := l.Pending[0]
	keys, err := b.listKeys(ctx, o.Namespace, folder)
	if err != nil {
		return err
	}
	l.Pending = l.Pending[1:]
	l.Listed++
	for _, key := range keys {
		name, nested := strings.CutSuffix(key, "/")
		switch id := folder + "/" + name; {
		case nested && isPath(id):
			l.Pending = append(l.Pending, id)
		case !nested && name != "":
			l.IDs = append(l.IDs, id)
		}
	}
	if l.Listed+len(l.Pending) > maxFolders {
		*l = backend.Listing{}
		return backend.Errorf(backend.InvalidResponse, "listing the %s: more than %d paths", o.name, maxFolders)
	}
	return nil
}

// RevokeAll implements backend.BulkRevoker. It does not wait for the revocations: Vault marks every lease as expired
// before it responds, then revokes many at a time in the background, and repeats a failed revocation six times in about
// ten minutes. With sync it would revoke one after the other and stop at the first that fails, so the leases behind it
// would stay alive.
func (b *Backend) RevokeAll(ctx context.Context, spec *v1alpha1.LeaseRevocationSpec) error {
	o, err := b.orderOf(spec)
	if err != nil {
		return err
	}
	body := map[string]any{"sync": false}
	if o.LeaseID != "" {
		body["lease_id"] = o.LeaseID
	}
	// Thousands of leases take Vault seconds. It continues even if the request times out.
	return b.carryOut(ctx, o, "revoking "+o.name, o.lines()[1],
		call{path: o.path(), body: body, timeout: b.issueTimeout})
}

// RevokeOne implements backend.BulkRevoker. Without force the error is what Vault reports about the revocation.
func (b *Backend) RevokeOne(ctx context.Context, spec *v1alpha1.LeaseRevocationSpec, id string, force bool) error {
	o, err := b.orderOf(spec)
	if err != nil {
		return err
	}
	rec := o.record(id)
	switch {
	case !ofPath(rec.Vault.Path, id) || !o.selects(id):
		return foreign(rec.Vault.Path)
	case !force:
		return b.revokeOnce(ctx, rec)
	case !o.Force:
		return backend.Errorf(backend.Misconfigured, "force is not set: a lease of %s is not forgotten", rec.Vault.Path)
	}
	// Vault takes a whole id for a lease, not for a prefix.
	lines := o.lines()
	return b.carryOut(ctx, o, "revoking a lease of "+rec.Vault.Path+" by force", lines[len(lines)-1],
		call{path: "sys/leases/revoke-force/" + id, body: map[string]any{}, timeout: b.issueTimeout})
}

func (b *Backend) carryOut(ctx context.Context, o order, what string, line policyLine, c call) error {
	c.method, c.namespace = http.MethodPut, o.Namespace
	r, err := b.asKeeper(ctx, c)
	if err != nil || succeeded(r.status) {
		return err
	}
	return b.expandDenied(ctx, o, b.fault(r, what, b.keeperName(), line.String()))
}

// Lives implements backend.BulkRevoker. An id that does not have the form of Vault's ids counts as alive.
func (b *Backend) Lives(ctx context.Context, spec *v1alpha1.LeaseRevocationSpec, id string) (bool, error) {
	o, err := b.orderOf(spec)
	if err != nil {
		return false, err
	}
	rec := o.record(id)
	if !ofPath(rec.Vault.Path, id) {
		return true, nil
	}
	found, err := b.stateOf(ctx, rec)
	return found == leaseAlive, err
}
