package lifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/types"
	testclock "k8s.io/utils/clock/testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/backend/fake"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/rollout"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// world is an API server with one DynamicSecret and its Secrets, a backend, and processes that work on them, all in
// memory and on one clock. The processes run the real lifecycle; every effect that they have goes through do, where
// faults happen.
type world struct {
	clock   *testclock.FakeClock
	backend *fake.Backend
	object  *v1alpha1.DynamicSecret // nil: gone
	// other is a world with another object on the same backend; nil: there is none.
	other   *world
	secrets map[string]*corev1.Secret
	version int
	procs   []*process
	fault   fault
	down    bool
	// broken are the paths whose database is, while the backend itself works.
	broken map[string]breakage
	// refusal is the error of the API server for each deletion, and with unread also for each read, of a Secret.
	refusal error
	unread  bool
	// admission changes or rejects each Secret before it is stored; nil: neither.
	admission func(sec *corev1.Secret, dryRun bool) error
	// updates is the error of the API server for each write of the status, or of the finalizer; nil: it accepts all.
	updates func(kind operation) error
	// counts are the operations by result.
	counts map[string]int
	// refuses are the operations that the backend refuses.
	refuses map[string]bool
	// failing are the errors of the backend for issuances, by path, and for "login".
	failing map[string]error
	// minted are the times of the issuances that minted, by path.
	minted map[string][]time.Time
	// recoveries counts how often the backend became available again.
	recoveries int64
	// abandoned are the records that were reported as given up.
	abandoned map[string]bool
	// serials are the certificates that leasekeeper can revoke, and which process received them; nil: the ledger has
	// listed them. A certificate whose response was lost lives until it expires: nothing has its serial number.
	serials map[string]*process
	effects []string
	events  []string
	// edits counts those of the object.
	edits int
	// stored is called after each write of a status; nil: nothing is.
	stored func(before, after *v1alpha1.DynamicSecret)
	// takes is how long the consumers take to roll out; using is the credential that they use, stamp the one in their
	// pod templates, and rolledAt when those with that stamp have moved.
	takes        time.Duration
	using, stamp string
	rolledAt     time.Time
	// rolloutFault fails the inspections of the consumers; inspections counts them.
	rolloutFault error
	// unstamps: something removes the stamp at once.
	unstamps    bool
	inspections int
}

// process is one replica of the manager.
type process struct {
	w    *world
	name string
	skew time.Duration
	life *Lifecycle
	// limits of the requests to the backend.
	limits *backend.Limits
	// outage is when the process last noticed that the backend is down.
	outage time.Time
	// cached are the Secrets as the process's cache shows them.
	cached map[string]*corev1.Secret
	// ctx is canceled by a shutdown.
	ctx  context.Context
	stop context.CancelFunc
}

// fault strikes one effect of a run.
type fault struct {
	// after so many effects; negative: never.
	after int
	kind  faultKind
}

type faultKind string

const (
	crashBefore faultKind = "crash before"
	crashAfter  faultKind = "crash after"
	failBefore  faultKind = "fail before"
	failAfter   faultKind = "fail after"
	late        faultKind = "late"
	wakeOther   faultKind = "wake the other process"
	shutdown    faultKind = "shutdown"
)

// breakage is how the requests for one path go wrong.
type breakage string

const (
	// fails: the backend reports an error of the database.
	fails breakage = "fails"
	// hangs: no response arrives within hangTime; an issuance may still mint after that.
	hangs breakage = "hangs"
)

// hangTime is how long a process waits for a response.
const hangTime = 5 * time.Second

// crash is the panic that stands for SIGKILL.
type crash struct{}

const testRequestLimit = 150 * time.Second

// Paths of the fake backend, by kind of response.
const (
	leasedPath      = "database/creds/orders"
	otherPath       = "rabbitmq/creds/orders"
	scheduledPath   = "static/app"
	staticPath      = "kv/settings"
	certificatePath = "pki/issue/orders"
)

func newWorld(processes int) *world {
	w := &world{
		clock:     testclock.NewFakeClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)),
		secrets:   map[string]*corev1.Secret{},
		fault:     fault{after: -1},
		abandoned: map[string]bool{},
		counts:    map[string]int{},
		refuses:   map[string]bool{},
		failing:   map[string]error{},
		minted:    map[string][]time.Time{},
		broken:    map[string]breakage{},
		serials:   map[string]*process{},
	}
	w.backend = fake.New(w.clock)
	w.backend.Delay = 90 * time.Second
	w.object = &v1alpha1.DynamicSecret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders", UID: "uid-1", Generation: 1,
			ResourceVersion: "1", CreationTimestamp: metav1.NewTime(w.clock.Now())},
		Spec: v1alpha1.DynamicSecretSpec{
			ProviderRef:     &v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: "vault"},
			Vault:           &v1alpha1.VaultRequest{Path: leasedPath},
			RefreshInterval: &metav1.Duration{Duration: time.Hour},
			Lease: v1alpha1.LeaseSpec{RenewAtPercent: 67, OnExpiry: v1alpha1.OnExpiryDelete,
				Reissue: v1alpha1.ReissueAlways, OnDelete: v1alpha1.OnDeleteRevoke,
				RevocationDeadline: &metav1.Duration{Duration: 1000 * time.Hour}},
		},
	}
	w.version = 1
	for i := range processes {
		p := &process{w: w, name: string(rune('a' + i))}
		p.restart()
		w.procs = append(w.procs, p)
	}
	return w
}

// second makes a world with another object on the same backend.
func (w *world) second() *world {
	other := newWorld(len(w.procs))
	other.clock, other.backend = w.clock, w.backend
	other.object.Namespace, other.object.UID = "billing", "uid-2"
	w.other, other.other = other, w
	return other
}

// severalSources makes the object request two leases, a static role and a KV secret.
func (w *world) severalSources() {
	w.backend.SetValue(staticPath, "one")
	w.object.Spec.Vault = nil
	w.object.Spec.Sources = []v1alpha1.SecretSource{
		from("db", leasedPath, ""), from("broker", otherPath, "BROKER_"),
		from("role", scheduledPath, "ROLE_"), from("settings", staticPath, "SETTINGS_"),
	}
}

func from(name, path, prefix string) v1alpha1.SecretSource {
	return v1alpha1.SecretSource{Name: name, Vault: &v1alpha1.VaultRequest{Path: path},
		Fields: &v1alpha1.FieldSelection{Prefix: prefix}}
}

// certificate makes the object request a certificate: besides its other sources, or instead of its only one.
func (w *world) certificate() {
	if spec := &w.object.Spec; spec.Vault == nil {
		spec.Sources = append(spec.Sources, from("certificate", certificatePath, "CERT_"))
	} else {
		spec.Vault.Path = certificatePath
	}
}

// restart forgets everything that was only in memory.
func (p *process) restart() {
	p.forgetRemains()
	maps.DeleteFunc(p.w.serials, func(_ string, by *process) bool { return by == p })
	p.life = &Lifecycle{
		clock: skewedClock{p}, objects: worldObjects{p}, secrets: worldSecrets{p}, sources: worldSources{p},
		announce: worldAnnouncer{p.w}, memory: newMemory(), requestLimit: testRequestLimit,
		sendWithin: testRequestLimit / 8, rollouts: worldRollouts{p},
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.limits = backend.NewLimits(skewedClock{p}, 4)
	p.life.limits = p.limits
	p.sync()
}

// forgetRemains notes what is given up if this process alone knows what a removed object listed.
func (p *process) forgetRemains() {
	if p.life == nil {
		return
	}
	for _, rec := range p.remains() {
		if !slices.ContainsFunc(p.w.procs, func(other *process) bool {
			return other != p && slices.ContainsFunc(other.remains(), func(r v1alpha1.LeaseRecord) bool {
				return r.Handle() == rec.Handle()
			})
		}) {
			p.w.abandoned[rec.Handle()] = true
		}
	}
}

// remains are the records of removed objects that the process has not revoked yet.
func (p *process) remains() (all []v1alpha1.LeaseRecord) {
	for _, removed := range p.life.memory.removed {
		for _, r := range removed {
			all = append(all, lease.Records(&r.d.Status)...)
		}
	}
	return all
}

// sync lets the cache catch up.
func (p *process) sync() {
	p.cached = map[string]*corev1.Secret{}
	for name, s := range p.w.secrets {
		p.cached[name] = s.DeepCopy()
	}
}

// run lets the process work on the object, from a stale cache if an old version of the object is given. It survives a
// crash as the restarted process.
func (p *process) run(stale *v1alpha1.DynamicSecret) (at time.Time, err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
			p.restart()
			at, err = p.w.clock.Now(), fmt.Errorf("crashed")
		}
	}()
	from := stale
	if from == nil {
		from = p.w.object
		p.sync()
	}
	if from == nil {
		return time.Time{}, nil
	}
	at, err = p.life.Run(p.ctx, from.DeepCopy())
	if p.ctx.Err() != nil {
		p.restart()
		return p.w.clock.Now(), fmt.Errorf("shut down")
	}
	return at, err
}

// do executes one effect of the process, with the fault that is due.
func (p *process) do(ctx context.Context, name string, act func() error) error {
	w := p.w
	w.effects = append(w.effects, p.name+":"+name)
	strike := faultKind("")
	if w.fault.after == 0 {
		strike = w.fault.kind
	}
	w.fault.after--
	switch strike {
	case crashBefore:
		panic(crash{})
	case failBefore:
		return errUnreachable
	case shutdown:
		p.stop()
	case wakeOther:
		for _, other := range w.procs {
			if other != p {
				_, _ = other.run(nil)
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err := act()
	switch strike {
	case crashAfter:
		panic(crash{})
	case failAfter:
		return errUnreachable
	}
	return err
}

var errUnreachable = apierrors.NewServerTimeout(schema.GroupResource{}, "any", 1)

type skewedClock struct{ p *process }

func (c skewedClock) Now() time.Time                  { return c.p.w.clock.Now().Add(c.p.skew) }
func (c skewedClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// worldObjects is the API server's side of DynamicSecrets: locked, and with times of whole seconds.
type worldObjects struct{ p *process }

func (o worldObjects) Get(context.Context, types.NamespacedName) (*v1alpha1.DynamicSecret, error) {
	if o.p.w.object == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "dynamicsecrets"}, "orders")
	}
	return o.p.w.object.DeepCopy(), nil
}

func (o worldObjects) UpdateStatus(ctx context.Context, d *v1alpha1.DynamicSecret) error {
	return o.p.do(ctx, "status", func() error {
		w, before := o.p.w, o.p.w.object
		if err := w.refusedUpdate(writeStatus); err != nil {
			return err
		}
		err := w.store(d, func(stored *v1alpha1.DynamicSecret) { stored.Status = d.Status })
		if err == nil {
			for _, rec := range lease.Records(&d.Status) {
				if serial := serialOf(&rec); serial != "" {
					w.serials[serial] = nil
				}
			}
		}
		if err == nil && w.stored != nil && w.object != nil {
			w.stored(before, w.object)
		}
		return err
	})
}

func (o worldObjects) PatchStatus(ctx context.Context, _, d *v1alpha1.DynamicSecret) error {
	return o.p.do(ctx, "patch status", func() error {
		return o.p.w.store(d, func(stored *v1alpha1.DynamicSecret) { stored.Status = d.Status })
	})
}

func (o worldObjects) SetFinalizer(ctx context.Context, d *v1alpha1.DynamicSecret, present bool) error {
	return o.p.do(ctx, fmt.Sprintf("finalizer %v", present), func() error {
		if err := o.p.w.refusedUpdate(writeFinalizer); err != nil {
			return err
		}
		return o.p.w.store(d, func(stored *v1alpha1.DynamicSecret) {
			stored.Finalizers = nil
			if present {
				stored.Finalizers = []string{v1alpha1.Finalizer}
			}
		})
	})
}

func (w *world) refusedUpdate(kind operation) error {
	if w.updates == nil {
		return nil
	}
	return w.updates(kind)
}

// store applies a change if d is up to date, and fills d with what was stored.
func (w *world) store(d *v1alpha1.DynamicSecret, change func(*v1alpha1.DynamicSecret)) error {
	gr := schema.GroupResource{Resource: "dynamicsecrets"}
	if w.object == nil {
		return apierrors.NewNotFound(gr, d.Name)
	}
	if w.object.ResourceVersion != d.ResourceVersion {
		return apierrors.NewConflict(gr, d.Name, fmt.Errorf("stale"))
	}
	stored := w.object.DeepCopy()
	change(stored)
	w.version++
	stored.ResourceVersion = fmt.Sprint(w.version)
	raw, err := cbor.Marshal(stored)
	if err != nil {
		return err
	}
	w.object = &v1alpha1.DynamicSecret{}
	if err := cbor.Unmarshal(raw, w.object); err != nil {
		return err
	}
	w.object.DeepCopyInto(d)
	if !w.object.DeletionTimestamp.IsZero() && len(w.object.Finalizers) == 0 {
		w.object = nil
	}
	return nil
}

// person edits the object, as somebody with kubectl would.
func (w *world) person(edit func(*v1alpha1.DynamicSecret)) {
	if w.object == nil {
		return
	}
	w.edits++
	before, _ := json.Marshal(w.object.Spec)
	d := w.object.DeepCopy()
	_ = w.store(d, func(stored *v1alpha1.DynamicSecret) {
		edit(stored)
		if after, _ := json.Marshal(stored.Spec); string(after) != string(before) {
			stored.Generation++
		}
	})
	if w.object == nil {
		w.removedWithoutFinalizer(d)
	}
}

// removedWithoutFinalizer does what the API server's watch and the garbage collector do.
func (w *world) removedWithoutFinalizer(d *v1alpha1.DynamicSecret) {
	for _, p := range w.procs {
		p.life.Removed(d)
	}
	for name, s := range w.secrets {
		if metav1.IsControlledBy(s, d) {
			delete(w.secrets, name)
		}
	}
}

// delete the object, as somebody with kubectl would.
func (w *world) delete() {
	w.person(func(d *v1alpha1.DynamicSecret) {
		if d.DeletionTimestamp.IsZero() {
			now := metav1.NewTime(w.clock.Now())
			d.DeletionTimestamp = &now
		}
	})
}

// worldSecrets is the API server's side of Secrets, and the cache of the process.
type worldSecrets struct{ p *process }

var secretsResource = schema.GroupResource{Resource: "secrets"}

func (s worldSecrets) Cached(_ context.Context, key types.NamespacedName) (*metav1.PartialObjectMetadata, error) {
	found := s.p.cached[key.Name]
	if found == nil || found.Labels[v1alpha1.OwnerLabel] == "" {
		return nil, nil
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: *found.ObjectMeta.DeepCopy()}, nil
}

func (s worldSecrets) Owned(
	_ context.Context, d *v1alpha1.DynamicSecret,
) (owned []metav1.PartialObjectMetadata, _ error) {
	for _, found := range s.p.cached {
		if found.Labels[v1alpha1.OwnerLabel] == secret.OwnerLabelValue(d.Name) {
			owned = append(owned, metav1.PartialObjectMetadata{ObjectMeta: *found.ObjectMeta.DeepCopy()})
		}
	}
	return owned, nil
}

func (s worldSecrets) Get(_ context.Context, key types.NamespacedName) (*corev1.Secret, error) {
	if s.p.w.refusal != nil && s.p.w.unread {
		return nil, s.p.w.refusal
	}
	if found := s.p.w.secrets[key.Name]; found != nil {
		return found.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(secretsResource, key.Name)
}

func (s worldSecrets) Create(ctx context.Context, sec *corev1.Secret, dryRun bool) error {
	taken := func() error {
		if s.p.w.secrets[sec.Name] != nil {
			return apierrors.NewAlreadyExists(secretsResource, sec.Name)
		}
		return s.p.w.admit(sec, dryRun)
	}
	if dryRun {
		return taken()
	}
	return s.p.do(ctx, "create secret", func() error {
		if err := taken(); err != nil {
			return err
		}
		s.p.w.put(sec)
		return nil
	})
}

// admit does what the API server does with a Secret before it stores it.
func (w *world) admit(sec *corev1.Secret, dryRun bool) error {
	if w.admission != nil {
		if err := w.admission(sec, dryRun); err != nil {
			return err
		}
	}
	if secret.CheckKeys(sec.Type, slices.Collect(maps.Keys(sec.Data))) != nil {
		return invalid(metav1.StatusCause{Type: metav1.CauseTypeFieldValueRequired, Field: "data[tls.crt]"})
	}
	return nil
}

// invalid is the API server's error for a Secret that it does not accept.
func invalid(causes ...metav1.StatusCause) error {
	err := apierrors.NewInvalid(schema.GroupKind{Kind: "Secret"}, "orders", nil)
	err.ErrStatus.Details.Causes = causes
	return err
}

// denial is the error of a ValidatingAdmissionPolicy.
func denial(message string) error {
	err := invalid(metav1.StatusCause{Message: message})
	var status *apierrors.StatusError
	errors.As(err, &status)
	status.ErrStatus.Message = "secrets \"orders\" is forbidden: ValidatingAdmissionPolicy 'hostile' with binding " +
		"'hostile' denied request: " + message
	return err
}

func (w *world) put(sec *corev1.Secret) {
	w.version++
	sec.ResourceVersion = fmt.Sprint(w.version)
	if sec.UID == "" {
		sec.UID = types.UID(fmt.Sprintf("secret-%d", w.version))
	}
	w.secrets[sec.Name] = sec.DeepCopy()
}

func (s worldSecrets) Patch(ctx context.Context, c secret.Change, dryRun bool) (*corev1.Secret, error) {
	m := &corev1.Secret{}
	patch := func() error {
		at := &metav1.ObjectMeta{Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion}
		if err := s.p.w.locked(at); err != nil {
			return err
		}
		sec := s.p.w.secrets[c.Name].DeepCopy()
		before := sec.DeepCopy()
		mergeInto(sec.Labels, c.Labels)
		mergeInto(sec.Annotations, c.Annotations)
		sec.OwnerReferences = c.Owners
		if sec.Data == nil {
			sec.Data = map[string][]byte{}
		}
		for key, value := range c.Data {
			if value == nil {
				delete(sec.Data, key)
			} else {
				sec.Data[key] = value
			}
		}
		if sec.Immutable != nil && *sec.Immutable && !equality.Semantic.DeepEqual(before.Data, sec.Data) {
			return invalid(metav1.StatusCause{Type: metav1.CauseTypeForbidden, Field: "data"})
		}
		if err := s.p.w.admit(sec, dryRun); err != nil || dryRun {
			return err
		}
		s.p.w.put(sec)
		sec.DeepCopyInto(m)
		return nil
	}
	if dryRun {
		return m, patch()
	}
	return m, s.p.do(ctx, "update secret", patch)
}

func mergeInto(have map[string]string, change map[string]*string) {
	for key, value := range change {
		if value == nil {
			delete(have, key)
		} else {
			have[key] = *value
		}
	}
}

func (s worldSecrets) Delete(ctx context.Context, m *metav1.ObjectMeta) error {
	return s.p.do(ctx, "delete secret", func() error {
		if s.p.w.refusal != nil {
			return s.p.w.refusal
		}
		if err := s.p.w.locked(m); err != nil {
			return err
		}
		delete(s.p.w.secrets, m.Name)
		return nil
	})
}

func (w *world) locked(sec *metav1.ObjectMeta) error {
	found := w.secrets[sec.Name]
	if found == nil {
		return apierrors.NewNotFound(secretsResource, sec.Name)
	}
	if found.UID != sec.UID || found.ResourceVersion != sec.ResourceVersion {
		return apierrors.NewConflict(secretsResource, sec.Name, fmt.Errorf("stale"))
	}
	return nil
}

// worldSources knows one provider, whose driver describes a request by its spec.
type worldSources struct{ p *process }

func (s worldSources) Resolve(_ context.Context, d *v1alpha1.DynamicSecret) (*resolved, error) {
	r := &resolved{Revision: "provider-1", Recoveries: s.p.w.recoveries}
	for _, spec := range d.AllSources() {
		text, _ := json.Marshal(spec)
		sum := sha256.Sum256(text)
		r.Sources = append(r.Sources, source{
			Spec: spec,
			Record: v1alpha1.LeaseRecord{
				Source: spec.Name,
				Provider: v1alpha1.ProviderIdentity{
					Kind: v1alpha1.ProviderKindCluster, Name: "vault", UID: "provider-1",
				},
				RequestDigest: "1:" + hex.EncodeToString(sum[:8]),
				Vault:         &v1alpha1.VaultRecord{Address: "https://vault.test:8200", Path: spec.Vault.Path},
			},
			Identity: backend.Identity{Namespace: d.Namespace, Owner: owner(d), MinTTL: testRequestLimit},
			Backend:  s.backend(),
		})
	}
	return r, nil
}

func (s worldSources) BackendFor(
	context.Context, *v1alpha1.DynamicSecret, *v1alpha1.LeaseRecord,
) (backend.Backend, error) {
	return s.backend(), nil
}

// backend is limited as in the manager.
func (s worldSources) backend() backend.Backend {
	return s.p.limits.Wrap(worldBackend(s), &v1alpha1.ClusterSecretProvider{})
}

func (s worldSources) Disputed(context.Context, *v1alpha1.DynamicSecret, *v1alpha1.LeaseRecord) error {
	return nil
}

func (s worldSources) Sharers(_ context.Context, d *v1alpha1.DynamicSecret) map[string]string {
	var sharers map[string]string
	other := s.p.w.other
	if other == nil || other.object == nil {
		return nil
	}
	for _, rec := range revokedSoon(d) {
		if name := sharerOf(&rec, d, []v1alpha1.DynamicSecret{*other.object}, s.p.w.clock.Now()); name != "" {
			put(&sharers, lease.Key(&rec), name)
		}
	}
	return sharers
}

// worldBackend is the backend as the process sees it, through faults.
type worldBackend struct{ p *process }

// call makes one request about a path; empty: about none. A fault after it loses the response; a late one lets the
// backend act when nobody waits.
func (l worldBackend) call(ctx context.Context, op, path string, act func() error) error {
	w := l.p.w
	hung := w.broken[path] == hangs && !w.down
	isLate := op == "issue" && (hung || w.fault.after == 0 && w.fault.kind == late)
	w.backend.Next = func(op string) fake.Fault {
		switch {
		case w.down:
			return fake.Down
		case isLate:
			return fake.Late
		case w.refuses[op]:
			return fake.Refused
		case w.broken[path] == fails:
			return fake.Error
		}
		return fake.None
	}
	err := l.p.do(ctx, op, func() error {
		if !hung {
			return act()
		}
		defer w.clock.Step(hangTime)
		if op == "issue" {
			return act()
		}
		return errUnreachable
	})
	if errors.Is(err, errUnreachable) {
		return backend.Errorf(backend.NoResponse, "%s got no response", op)
	}
	return err
}

// LastOutage implements backend.OutageReporter.
func (l worldBackend) LastOutage() time.Time {
	if l.p.w.down {
		l.p.outage = skewedClock(l).Now()
	}
	return l.p.outage
}

// seen is a term as the process measures it: from when it sent the request, by its own clock.
func (l worldBackend) seen(t lease.Term) lease.Term {
	if !t.At.IsZero() {
		t.At = t.At.Add(l.p.skew)
	}
	return t
}

func (l worldBackend) Login(ctx context.Context, who backend.Identity) (s backend.Session, err error) {
	err = l.call(ctx, "login", "", func() (err error) {
		if err := l.p.w.failing["login"]; err != nil {
			return err
		}
		s, err = l.p.w.backend.Login(ctx, who)
		return err
	})
	s.Term = l.seen(s.Term)
	return s, err
}

func (l worldBackend) Issue(
	ctx context.Context, s backend.Session, src v1alpha1.SecretSource,
) (r backend.Response, err error) {
	w, path := l.p.w, src.Vault.Path
	err = l.call(ctx, "issue", path, func() (err error) {
		if err := w.failing[path]; err != nil {
			return err
		}
		if r, err = w.backend.Issue(ctx, s, src); err == nil && r.LeaseID != "" {
			w.minted[path] = append(w.minted[path], w.clock.Now())
		}
		return err
	})
	r.Term = l.seen(r.Term)
	if err == nil && r.Identify != nil {
		rec := v1alpha1.LeaseRecord{Vault: &v1alpha1.VaultRecord{}}
		r.Identify(&rec)
		l.p.w.serials[serialOf(&rec)] = l.p
	}
	return r, err
}

func (l worldBackend) Read(
	ctx context.Context, who backend.Identity, src v1alpha1.SecretSource,
) (r backend.Response, err error) {
	err = l.call(ctx, "read", src.Vault.Path, func() (err error) {
		r, err = l.p.w.backend.Read(ctx, who, src)
		return err
	})
	r.Term = l.seen(r.Term)
	return r, err
}

func (l worldBackend) Renew(
	ctx context.Context, rec v1alpha1.LeaseRecord, increment time.Duration,
) (t lease.Term, err error) {
	err = l.call(ctx, "renew", rec.Vault.Path, func() (err error) {
		t, err = l.p.w.backend.Renew(ctx, rec, increment)
		return err
	})
	return l.seen(t), err
}

func (l worldBackend) ExtendSession(
	ctx context.Context, rec v1alpha1.LeaseRecord, who backend.Owner,
) (t lease.Term, err error) {
	err = l.call(ctx, "extend", "", func() (err error) {
		t, err = l.p.w.backend.ExtendSession(ctx, rec, who)
		return err
	})
	return l.seen(t), err
}

func (l worldBackend) Revoke(ctx context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner) error {
	return l.call(ctx, "revoke", rec.Vault.Path, func() error { return l.p.w.backend.Revoke(ctx, rec, owner) })
}

func (l worldBackend) Lookup(ctx context.Context, rec v1alpha1.LeaseRecord) error {
	return l.call(ctx, "lookup", rec.Vault.Path, func() error { return l.p.w.backend.Lookup(ctx, rec) })
}

const ordersWorkload = "Deployment/orders"

// worldRollouts are the consumers: one workload that reads the Secret when it starts.
type worldRollouts struct{ p *process }

func (r worldRollouts) Follow(
	ctx context.Context, d *v1alpha1.DynamicSecret, hold bool, contested map[string]bool,
) (rollout.Progress, error) {
	w := r.p.w
	if w.unstamps {
		w.stamp, w.rolledAt = "", time.Time{} // the pods keep what they use
		if contested[ordersWorkload] {
			return rollout.Progress{Reason: v1alpha1.ReasonRolloutContested, Waiting: []string{"removed"}}, nil
		}
	}
	if w.inspections++; w.rolloutFault != nil {
		return rollout.Progress{}, w.rolloutFault
	}
	if h := d.Status.Handover; h.Stamp != w.stamp {
		if hold {
			return rollout.Progress{Reason: v1alpha1.ReasonRollingOut, Waiting: []string{"others"}}, nil
		}
		if err := r.p.do(ctx, "stamp", func() error {
			w.move()
			w.stamp, w.rolledAt = h.Stamp, w.clock.Now().Add(w.takes)
			return nil
		}); err != nil {
			return rollout.Progress{}, err
		}
		return rollout.Progress{Reason: v1alpha1.ReasonRollingOut, Stamped: []string{ordersWorkload}}, nil
	}
	w.move()
	if w.clock.Now().Before(w.rolledAt) {
		return rollout.Progress{Reason: v1alpha1.ReasonRollingOut}, nil
	}
	return rollout.Progress{Done: true}, nil
}

// move lets the consumers start that were not there yet, or that have come to the end of their rollout.
func (w *world) move() {
	s := w.secrets[w.object.TargetName()]
	if s == nil {
		return
	}
	if w.using == "" || (!w.rolledAt.IsZero() && !w.clock.Now().Before(w.rolledAt)) {
		w.using, w.rolledAt = string(s.Data["username"]), time.Time{}
	}
}

type worldAnnouncer struct{ w *world }

func (a worldAnnouncer) Event(_ *v1alpha1.DynamicSecret, _, reason, message string) {
	a.w.events = append(a.w.events, reason+": "+message)
}

func (a worldAnnouncer) Count(operation, result string) { a.w.counts[operation+" "+result]++ }

func (a worldAnnouncer) Abandoned(_ context.Context, _ *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord, _ string) {
	a.w.abandoned[rec.Handle()] = true
}

// serialOf a certificate; empty: the record has none.
func serialOf(rec *v1alpha1.LeaseRecord) string {
	if rec.Vault == nil {
		return ""
	}
	return rec.Vault.SerialNumber
}

// known are the lease ids, serial numbers and handles that the ledger or the memory of a living process can still
// revoke.
func (w *world) known() map[string]bool {
	known := maps.Clone(w.abandoned)
	note := func(records ...v1alpha1.LeaseRecord) {
		for i := range records {
			rec := &records[i]
			known[rec.ID], known[rec.Handle()], known[serialOf(rec)] = true, true, true
		}
	}
	if w.object != nil {
		note(lease.Records(&w.object.Status)...)
	}
	for _, p := range w.procs {
		note(p.remains()...)
		for _, mem := range p.life.memory.objects {
			if mem.held == nil {
				continue
			}
			for i := range mem.held.Records {
				note(mem.held.Records[i].Record)
			}
		}
	}
	return known
}

// alive maps the ids of the live leases, and the serial numbers of the live certificates that leasekeeper can revoke,
// to their handles.
func (w *world) alive() map[string]string {
	live := w.backend.Live()
	for serial, handle := range w.certificates() {
		live[serial] = handle
	}
	return live
}

// certificates are those of alive.
func (w *world) certificates() map[string]string {
	live := w.backend.LiveCertificates()
	maps.DeleteFunc(live, func(serial, _ string) bool {
		_, known := w.serials[serial]
		return !known
	})
	return live
}

// leaked lists live leases and certificates that nothing knows of. A handle does not revoke a certificate.
func (w *world) leaked() []string {
	known := w.known()
	var out []string
	for id, handle := range w.backend.Live() {
		if !known[id] && !known[handle] {
			out = append(out, id+" of "+handle)
		}
	}
	for serial, handle := range w.certificates() {
		if !known[serial] && !w.abandoned[handle] {
			out = append(out, serial+" of "+handle)
		}
	}
	slices.Sort(out)
	return out
}

// expired says which credential in a Secret has expired in the backend; empty: none.
func (w *world) expired() string {
	for _, s := range w.secrets {
		for _, value := range s.Data {
			end, known := w.backend.Expiry(string(value))
			if now := w.clock.Now(); known && !now.Before(end) {
				return fmt.Sprintf("%s expired at %s, now %s", value, end, now)
			}
		}
	}
	return ""
}

// pass lets time pass, in which each process runs whenever something is due.
func (w *world) pass(d time.Duration) {
	for end := w.clock.Now().Add(d); w.clock.Now().Before(end); {
		before, next := len(w.effects), end
		for _, p := range w.procs {
			if at, err := p.run(nil); err != nil || !at.IsZero() && at.Before(next) {
				next = at
			}
		}
		if step := w.clock.Now().Add(time.Second); len(w.effects) > before || next.Before(step) {
			next = step
		}
		w.clock.SetTime(next)
	}
}

// settle stops all faults and lets time pass until everything is at rest.
func (w *world) settle() error {
	w.fault, w.down, w.refusal, w.admission, w.updates = fault{after: -1}, false, nil, nil, nil
	clear(w.refuses)
	clear(w.failing)
	clear(w.broken)
	w.removeForeign()
	for _, p := range w.procs {
		p.skew = 0
	}
	// In the end one replica leads. What the others still hold they settle before they stop.
	for _, p := range w.procs[1:] {
		for range 50 {
			w.gone(p)
			_, _ = p.run(nil)
			w.clock.Step(time.Second)
			if !p.holds() {
				break
			}
		}
		p.restart()
	}
	quiet := 0
	for range 600 {
		before := len(w.effects)
		w.gone(w.procs[0])
		next, _ := w.procs[0].run(nil)
		if w.changes() == w.changesIn(before) && !w.pending() {
			if w.unnoticed() && !next.IsZero() {
				w.clock.SetTime(next) // a revocation without leasekeeper is noticed when something is due
				continue
			}
			if quiet++; quiet == 2 {
				return nil
			}
			continue
		}
		quiet = 0
		step := w.clock.Now().Add(time.Second)
		if next.After(step) && w.pending() && len(w.effects) == before {
			step = next
		}
		w.clock.SetTime(step)
	}
	return fmt.Errorf("it does not settle: %v", w.effects[max(0, len(w.effects)-20):])
}

// changes counts the effects but reads of static sources, which recur at rest too.
func (w *world) changes() int { return w.changesIn(len(w.effects)) }

func (w *world) changesIn(n int) int {
	count := 0
	for _, e := range w.effects[:n] {
		if e[len(e)-len(":read"):] != ":read" {
			count++
		}
	}
	return count
}

func (p *process) holds() bool {
	if len(p.life.memory.removed) > 0 {
		return true
	}
	for _, mem := range p.life.memory.objects {
		if mem.held != nil {
			return true
		}
	}
	return false
}

// unnoticed says that a recorded lease does not live, or that the Secret contains something that has expired: the clock
// of the process that recorded it was wrong.
func (w *world) unnoticed() bool {
	if w.object == nil {
		return false
	}
	if w.expired() != "" {
		return true
	}
	live := w.backend.Live()
	return slices.ContainsFunc(w.object.Status.Leases, func(rec v1alpha1.LeaseRecord) bool {
		return lease.Leased(&rec) && live[rec.ID] == ""
	})
}

// pending says that something is still to be done.
func (w *world) pending() bool {
	if w.object == nil {
		return w.procs[0].holds()
	}
	st := w.object.Status
	none := len(st.Leases) == 0
	s := w.secrets[w.object.TargetName()]
	written := s != nil && lease.Published(&st) && secret.InSync(s, w.object)
	if !none && !written {
		return true
	}
	wanted := st.GrantEndedAt == nil && !w.object.Spec.Revoked && !w.object.Spec.Suspend
	pending := st.Attempt != nil || len(st.Retiring) > 0 || w.object.Spec.Revoked && w.labelled() > 0
	return !w.object.DeletionTimestamp.IsZero() || pending || none && wanted
}

// gone does for an object that no longer exists what the reconciler does.
func (w *world) gone(p *process) {
	if w.object != nil {
		return
	}
	_, _ = p.life.Gone(context.Background(), ordersKey)
}

// tamper changes a value in the Secret.
func (w *world) tamper() {
	for _, s := range w.secrets {
		if s.Labels[v1alpha1.OwnerLabel] == secret.OwnerLabelValue("orders") {
			changed := s.DeepCopy()
			changed.Data["username"] = []byte("somebody else")
			w.put(changed)
		}
	}
}

// touch adds a key and an annotation to the Secret, as another controller would.
func (w *world) touch() {
	for _, s := range w.secrets {
		changed := s.DeepCopy()
		changed.Data["added-by-others"] = []byte("x")
		changed.Annotations["others.example/at"] = w.clock.Now().String()
		w.put(changed)
	}
}

// removeForeign deletes the Secrets of something else.
func (w *world) removeForeign() {
	maps.DeleteFunc(w.secrets, func(_ string, s *corev1.Secret) bool { return s.Data["mine"] != nil })
}
