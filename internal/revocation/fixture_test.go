package revocation

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var threeLeases = []string{"database/creds/orders/a", "database/creds/orders/b", "database/creds/web/c"}

// server is a backend with leases: true ones live, false ones have expired and are not revoked yet.
type server struct {
	backend.Backend
	mu     sync.Mutex
	leases map[string]bool
	// stuck are leases whose revocation fails.
	stuck map[string]bool
	// slow: the server revokes nothing in the background.
	slow bool
	// fails are the errors of the next calls, by method; with acts, RevokeAll revokes before it fails.
	fails map[string][]error
	acts  bool
	calls []string
	// lists is the number of lists that were begun.
	lists int
	// onList runs before a folder is listed, onOne before a lease is revoked or looked up, and onForce before one is
	// forced.
	onList, onOne, onForce func()
	// harmed are leases that lived, so were issued after the revocation, when they were revoked one by one.
	harmed []string
	// onRevoke runs right after the server accepted a revocation.
	onRevoke func()
}

func newServer(ids ...string) *server {
	s := &server{leases: map[string]bool{}, stuck: map[string]bool{}, fails: map[string][]error{}}
	for _, id := range ids {
		s.leases[id] = true
	}
	return s
}

func (s *server) call(name string) error {
	s.calls = append(s.calls, name)
	if errs := s.fails[name]; len(errs) > 0 {
		s.fails[name] = errs[1:]
		return errs[0]
	}
	return nil
}

func (s *server) count(name string) (n int) {
	for _, call := range s.calls {
		if call == name {
			n++
		}
	}
	return n
}

func selects(spec *v1alpha1.LeaseRevocationSpec, id string) bool {
	return id == spec.Vault.LeaseID || spec.Vault.Prefix != "" && strings.HasPrefix(id, spec.Vault.Prefix)
}

func (s *server) Covers(spec *v1alpha1.LeaseRevocationSpec, rec *v1alpha1.LeaseRecord) bool {
	return rec.Vault != nil && rec.Vault.Namespace == "team" && selects(spec, rec.ID)
}

// ListNext lists one folder: each segment of a path is one, as in Vault.
func (s *server) ListNext(_ context.Context, spec *v1alpha1.LeaseRevocationSpec, l *backend.Listing) error {
	if err := s.call("ListNext"); err != nil {
		return err
	}
	if s.onList != nil {
		s.onList()
	}
	folder := strings.TrimSuffix(spec.Vault.Prefix, "/")
	if l.Listed > 0 {
		folder, l.Pending = l.Pending[0], l.Pending[1:]
	} else {
		s.lists++
	}
	l.Listed++
	for id := range s.leases {
		rest, below := strings.CutPrefix(id, folder+"/")
		name, _, nested := strings.Cut(rest, "/")
		switch sub := folder + "/" + name; {
		case !below:
		case !nested:
			l.IDs = append(l.IDs, id)
		case !slices.Contains(l.Pending, sub):
			l.Pending = append(l.Pending, sub)
		}
	}
	slices.Sort(l.IDs)
	slices.Sort(l.Pending)
	l.Complete = len(l.Pending) == 0
	return nil
}

func (s *server) RevokeAll(_ context.Context, spec *v1alpha1.LeaseRevocationSpec) error {
	err := s.call("RevokeAll")
	if err != nil && !s.acts {
		return err
	}
	for id := range s.leases {
		if selects(spec, id) {
			s.leases[id] = false
		}
	}
	s.tidy()
	if s.onRevoke != nil {
		s.onRevoke()
	}
	return err
}

// tidy is what the server does in the background: it revokes expired leases.
func (s *server) tidy() {
	for id, lives := range s.leases {
		if !lives && !s.stuck[id] && !s.slow {
			delete(s.leases, id)
		}
	}
}

func (s *server) RevokeOne(_ context.Context, _ *v1alpha1.LeaseRevocationSpec, id string, force bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, respond := "RevokeOne", s.onOne
	if force {
		name, respond = "Force", s.onForce
	}
	if respond != nil {
		respond()
	}
	if err := s.call(name); err != nil {
		return err
	}
	if s.leases[id] {
		s.harmed = append(s.harmed, id)
	}
	if s.stuck[id] && !force {
		return backend.Errorf(backend.Failed, "revoking a lease: the database is unavailable")
	}
	delete(s.leases, id)
	return nil
}

func (s *server) Lives(_ context.Context, _ *v1alpha1.LeaseRevocationSpec, id string) (bool, error) {
	if s.onOne != nil {
		s.onOne()
	}
	return s.leases[id], s.call("Lives")
}

// bed runs one LeaseRevocation on a fake API server.
type bed struct {
	*Runner
	t        *testing.T
	clock    *testclock.FakePassiveClock
	server   *server
	objects  client.WithWatch
	notified []string
	// mu is for events and counted.
	mu      sync.Mutex
	events  []string
	counted map[string]int
	// refuseWrites is the number of status writes that fail from now on.
	refuseWrites int
}

// revocation of all leases below database/creds/.
func revocation(modifiers ...func(*v1alpha1.LeaseRevocation)) *v1alpha1.LeaseRevocation {
	r := &v1alpha1.LeaseRevocation{ObjectMeta: metav1.ObjectMeta{Name: "incident", UID: "uid-1", Generation: 1}}
	r.Spec.ProviderRef = v1alpha1.RevocationProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: "vault"}
	r.Spec.Vault = &v1alpha1.VaultRevocation{Prefix: "database/creds/"}
	for _, m := range modifiers {
		m(r)
	}
	return r
}

func byForce(r *v1alpha1.LeaseRevocation) { r.Spec.Vault.Force, r.Spec.Confirm = true, r.Spec.Target() }

func provider() *v1alpha1.ClusterSecretProvider {
	p := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault", UID: "provider-1", Generation: 4}}
	p.Spec.Vault = &v1alpha1.VaultProvider{Address: "https://vault.test:8200", Namespace: "team"}
	return p
}

// holding is a DynamicSecret with leases, in Vault namespace team.
func holding(name string, ids ...string) *v1alpha1.DynamicSecret {
	d := &v1alpha1.DynamicSecret{}
	d.Namespace, d.Name, d.UID = "shop", name, types.UID("uid-"+name)
	for _, id := range ids {
		rec := v1alpha1.LeaseRecord{ID: id, Vault: &v1alpha1.VaultRecord{Namespace: "team"}}
		d.Status.Leases = append(d.Status.Leases, rec)
	}
	return d
}

func newBed(t *testing.T, s *server, stored ...client.Object) *bed {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, clock: testclock.NewFakePassiveClock(t0), server: s, counted: map[string]int{}}
	b.objects = clientfake.NewClientBuilder().WithScheme(scheme).WithObjects(stored...).
		WithStatusSubresource(&v1alpha1.DynamicSecret{}, &v1alpha1.LeaseRevocation{}).
		WithInterceptorFuncs(interceptor.Funcs{SubResourceUpdate: b.updateStatus}).Build()
	b.restart()
	return b
}

func (b *bed) updateStatus(
	ctx context.Context, c client.Client, what string, o client.Object, opts ...client.SubResourceUpdateOption,
) error {
	if _, ours := o.(*v1alpha1.LeaseRevocation); ours && b.refuseWrites > 0 {
		b.refuseWrites--
		return errors.New("the API server is unavailable")
	}
	return c.SubResource(what).Update(ctx, o, opts...)
}

// restart loses what only the process knew.
func (b *bed) restart() {
	b.Runner = New(Config{
		Clock: b.clock, Client: b.objects, Reader: b.objects, Provider: b.provider, Verifier: b, Recorder: b,
		Backend: func(context.Context, v1alpha1.Provider) (backend.Backend, error) { return b.server, nil },
	})
}

func (b *bed) provider(ctx context.Context, kind, name, namespace string) (v1alpha1.Provider, error) {
	if kind == v1alpha1.ProviderKindCluster {
		p := &v1alpha1.ClusterSecretProvider{}
		return p, b.objects.Get(ctx, types.NamespacedName{Name: name}, p)
	}
	p := &v1alpha1.SecretProvider{}
	return p, b.objects.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, p)
}

func (b *bed) Raise(_ context.Context, d *v1alpha1.DynamicSecret, ids ...string) {
	b.notified = append(b.notified, d.Name+" suspects "+strings.Join(ids, " "))
}

func (b *bed) RaiseLost(_ context.Context, d *v1alpha1.DynamicSecret, ids ...string) {
	b.notified = append(b.notified, d.Name+" lost "+strings.Join(ids, " "))
}

func (b *bed) RevocationEvent(_ *v1alpha1.LeaseRevocation, kind, reason, _ string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, kind+" "+reason)
}

func (b *bed) CountRevocation(result string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counted[result]++
}

// step runs one step, and sets the clock to when the next one is due.
func (b *bed) step() (time.Duration, error) {
	b.t.Helper()
	pause, err := b.Run(b.t.Context(), "incident")
	b.clock.SetTime(b.clock.Now().Add(pause))
	return pause, err
}

// stepUntil runs steps without an error until the condition holds.
func (b *bed) stepUntil(what string, holds func() bool) {
	b.t.Helper()
	for range 100 {
		if holds() {
			return
		}
		if _, err := b.step(); err != nil {
			b.t.Fatal(err)
		}
	}
	b.t.Fatalf("not %s: %+v", what, b.get().Status)
}

// settle runs steps, and what the DynamicSecrets do, until nothing is left to do.
func (b *bed) settle() *v1alpha1.LeaseRevocation {
	b.t.Helper()
	for range 200 {
		if pause, err := b.step(); err == nil && pause == 0 {
			return b.get()
		}
		b.dropLeases()
	}
	b.t.Fatalf("it does not settle: %+v", b.get().Status)
	return nil
}

// dropLeases is what the notified DynamicSecrets do: they drop leases that no longer live.
func (b *bed) dropLeases() {
	b.t.Helper()
	for _, notice := range b.notified {
		name, _, _ := strings.Cut(notice, " ")
		d := &v1alpha1.DynamicSecret{}
		if err := b.objects.Get(b.t.Context(), types.NamespacedName{Namespace: "shop", Name: name}, d); err != nil {
			b.t.Fatal(err)
		}
		before := len(d.Status.Leases)
		d.Status.Leases = slices.DeleteFunc(d.Status.Leases, func(rec v1alpha1.LeaseRecord) bool {
			return !b.server.leases[rec.ID]
		})
		if len(d.Status.Leases) == before {
			continue
		}
		if err := b.objects.Status().Update(b.t.Context(), d); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bed) get() *v1alpha1.LeaseRevocation {
	b.t.Helper()
	r := &v1alpha1.LeaseRevocation{}
	if err := b.objects.Get(b.t.Context(), types.NamespacedName{Name: "incident"}, r); err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bed) wantCondition(kind string, status metav1.ConditionStatus, reason string, pieces ...string) {
	b.t.Helper()
	got := meta.FindStatusCondition(b.get().Status.Conditions, kind)
	if got == nil || got.Status != status || got.Reason != reason {
		b.t.Fatalf("%s is %+v, want %s for %s", kind, got, status, reason)
	}
	for _, piece := range pieces {
		if !strings.Contains(got.Message, piece) {
			b.t.Errorf("%q does not contain %q", got.Message, piece)
		}
	}
}

func (b *bed) wantFinished(matched, secrets int64) {
	b.t.Helper()
	b.wantCondition(v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonLeasesRevoked,
		plural(matched, "lease"), plural(secrets, "DynamicSecret"))
	st := b.get().Status
	numbers := *st.MatchedLeases == matched && *st.DynamicSecrets == secrets && *st.RemainingLeases == 0
	times := st.StartedAt != nil && st.AcceptedAt != nil && st.CompletedAt != nil
	if !numbers || !times || len(st.Conditions) != 1 || st.ObservedGeneration != 1 {
		b.t.Errorf("status: %+v", st)
	}
}

func (b *bed) wantEvents(want ...string) {
	b.t.Helper()
	if !slices.Equal(b.events, want) {
		b.t.Errorf("events %v, want %v", b.events, want)
	}
}
