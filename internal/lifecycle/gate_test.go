package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	testclock "k8s.io/utils/clock/testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/rollout"
)

// Whatever the API server needs to write a Secret may be down: the status says so, nothing is minted for it, and the
// object continues by itself.
func TestAnAPIServerThatCannotWriteSecretsIsReported(t *testing.T) {
	for name, down := range map[string]error{
		"a webhook is down":   apierrors.NewInternalError(errors.New("failed calling webhook")),
		"a webhook times out": apierrors.NewTimeoutError("failed calling webhook", 1),
		"etcd is read-only":   apierrors.NewServiceUnavailable("failed calling webhook"),
		"too many requests":   apierrors.NewTooManyRequestsError("failed calling webhook"),
	} {
		for stage, change := range map[string]func(*world){
			"first": nil,
			"a label": func(w *world) {
				w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Labels = map[string]string{"team": "other"} })
			},
			"a rename": func(w *world) {
				w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Name = "renamed" })
			},
			"a new value": func(w *world) { w.backend.SetValue(staticPath, "two"); w.pass(time.Hour) },
			"a rotation": func(w *world) {
				w.person(func(d *v1alpha1.DynamicSecret) {
					metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RotateRequestedAtAnnotation, "now")
				})
			},
		} {
			w := newWorld(1)
			w.backend.TTL, w.backend.MaxTTL = 100*time.Hour, 1000*time.Hour
			w.severalSources()
			if change != nil {
				w.pass(10 * time.Second)
			}
			issued := w.backend.Issued()
			w.admission = func(*corev1.Secret, bool) error { return down }
			if change != nil {
				change(w)
			}
			w.pass(time.Minute)
			got := w.messages()
			reported := strings.Contains(got, "failed calling webhook")
			if !reported || strings.Contains(got, v1alpha1.ReasonTargetContested) {
				t.Errorf("%s, %s: the conditions are %s", name, stage, got)
			}
			if n := w.backend.Issued() - issued; n > 3 || stage == "first" && n > 0 {
				t.Errorf("%s, %s: %d credentials were minted", name, stage, n)
			}
			w.admission = nil
			w.pass(20 * time.Minute)
			got = w.messages()
			if strings.Contains(got, "failed calling webhook") || w.secrets[w.object.TargetName()] == nil {
				t.Errorf("%s, %s: it does not recover: %s", name, stage, got)
			}
		}
	}
}

// messages of all conditions.
func (w *world) messages() (all string) {
	for _, c := range w.object.Status.Conditions {
		all += fmt.Sprintf("%s %s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
	}
	return all
}

// An admission webhook that hangs in one namespace leaves most workers to the others, whatever kind of write it is for.
func TestAHangingWebhookUsesAQuarterOfTheWorkers(t *testing.T) {
	d := &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: "hanging", Name: "orders"}}
	for kind, write := range map[string]func(*Lifecycle, context.Context, *observation) error{
		"a status": func(l *Lifecycle, ctx context.Context, o *observation) error {
			return l.updateStatus(ctx, o, d)
		},
		"a first condition": func(l *Lifecycle, ctx context.Context, o *observation) error {
			return l.rest(ctx, o, o.step)
		},
		"a journal": func(l *Lifecycle, ctx context.Context, o *observation) error {
			return l.commit(ctx, o, func(*v1alpha1.DynamicSecret) {})
		},
		"a new finalizer": func(l *Lifecycle, ctx context.Context, o *observation) error {
			return l.execute(ctx, o, lease.Step{Action: lease.AddFinalizer})
		},
		"a removal of the finalizer": func(l *Lifecycle, ctx context.Context, o *observation) error {
			return l.execute(ctx, o, lease.Step{Action: lease.RemoveFinalizer})
		},
		"a Secret": func(l *Lifecycle, ctx context.Context, o *observation) error {
			return l.writing(ctx, o, func() error { return l.create(ctx, o, nil, "") })
		},
		"the deletion of a Secret": func(l *Lifecycle, ctx context.Context, o *observation) error {
			return l.deleteQuickly(ctx, &seen{ObjectMeta: metav1.ObjectMeta{Namespace: "hanging", Name: "orders"}})
		},
		"a workload": func(l *Lifecycle, ctx context.Context, o *observation) error {
			return l.gated(ctx, rollOut, o.d.Namespace, func() error {
				_, err := l.rollouts.Follow(ctx, o.d, false, nil)
				return err
			})
		},
	} {
		t.Run(kind, func(t *testing.T) { useHangingWebhook(t, d, write) })
	}
}

// useHangingWebhook lets more objects than there are workers write to a namespace whose webhook hangs.
func useHangingWebhook(
	t *testing.T, d *v1alpha1.DynamicSecret, write func(*Lifecycle, context.Context, *observation) error,
) {
	const workers = 32
	c := testclock.NewFakeClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	api := &hangingAPI{started: make(chan struct{}), release: make(chan struct{})}
	l := &Lifecycle{clock: c, limits: backend.NewLimits(c, workers), memory: newMemory(),
		objects: hangingObjects{api: api}, secrets: hangingSecrets{api: api}, rollouts: hangingRollouts{api},
		announce: silent{}, sources: newWorld(1).procs[0].life.sources}
	observed := func(i int) *observation {
		d := d.DeepCopy()
		d.UID = types.UID(fmt.Sprint(i))
		return &observation{d: d, mem: &remembered{}, sources: &resolved{}}
	}
	hanging, returned := 0, make(chan error)
	for i := range 3 * workers {
		go func() { returned <- write(l, t.Context(), observed(i)) }()
		select {
		case <-api.started:
			hanging++
		case <-returned: // its worker
		}
		c.Step(200 * time.Millisecond)
	}
	if hanging == 0 || hanging > workers/4 {
		t.Errorf("%d of %d workers wait for the webhook", hanging, workers)
	}
	for _, kind := range []operation{writeSecret, deleteSecret, writeStatus, writeFinalizer, rollOut} {
		if err := l.gated(t.Context(), kind, "healthy", func() error { return nil }); err != nil {
			t.Errorf("another namespace waits for %s: %v", kind, err)
		}
	}
	c.Step(30 * time.Second)
	close(api.release)
	for range hanging {
		<-returned
	}
	c.Step(5 * time.Second)
	api.started, api.requests = nil, 0
	api.takes = func() { c.Step(30 * time.Second) }
	for i := range workers {
		_ = write(l, t.Context(), observed(i))
	}
	if api.requests == 0 || api.requests > 2 {
		t.Errorf("%d writes tried whether the webhook is back, want one at a time", api.requests)
	}
}

// silent reports nothing.
type silent struct{}

func (silent) Event(*v1alpha1.DynamicSecret, string, string, string) {}
func (silent) Count(string, string)                                  {}
func (silent) Abandoned(context.Context, *v1alpha1.DynamicSecret, *v1alpha1.LeaseRecord, string) {
}

// hangingAPI is an API server whose webhooks do not respond.
type hangingAPI struct {
	started, release chan struct{}
	requests         int
	takes            func()
}

func (a *hangingAPI) hang() error {
	if a.started != nil {
		a.started <- struct{}{}
		<-a.release
		return context.DeadlineExceeded
	}
	a.requests++
	a.takes()
	return context.DeadlineExceeded
}

type hangingObjects struct {
	objects
	api *hangingAPI
}

func (o hangingObjects) UpdateStatus(context.Context, *v1alpha1.DynamicSecret) error {
	return o.api.hang()
}
func (o hangingObjects) SetFinalizer(context.Context, *v1alpha1.DynamicSecret, bool) error {
	return o.api.hang()
}

type hangingSecrets struct {
	secrets
	api *hangingAPI
}

func (s hangingSecrets) Create(context.Context, *corev1.Secret, bool) error { return s.api.hang() }
func (s hangingSecrets) Delete(context.Context, *metav1.ObjectMeta) error   { return s.api.hang() }

type hangingRollouts struct{ api *hangingAPI }

func (r hangingRollouts) Follow(
	context.Context, *v1alpha1.DynamicSecret, bool, map[string]bool,
) (rollout.Progress, error) {
	return rollout.Progress{}, r.api.hang()
}

// The API server may reject leasekeeper's status or finalizer, or a webhook may be down. That is reported once, tried
// again after growing pauses, and costs one login at most. Leases that exist are kept, and deletions revoke them.
func TestRejectedUpdatesAreReported(t *testing.T) {
	denied := apierrors.NewForbidden(v1alpha1.GroupVersion.WithResource("dynamicsecrets").GroupResource(), "orders",
		errors.New("ValidatingAdmissionPolicy 'audit' denied request"))
	for name, down := range map[string]error{
		"a policy denies it":       denied,
		"a webhook is down":        apierrors.NewInternalError(errors.New("failed calling webhook")),
		"a webhook hangs":          apierrors.NewTimeoutError("failed calling webhook", 1),
		"the API server is silent": context.DeadlineExceeded,
	} {
		for _, kind := range []operation{writeStatus, writeFinalizer} {
			for _, stage := range []string{"first", "live", "deleted"} {
				t.Run(fmt.Sprintf("%s, %s, %s", name, kind, stage), func(t *testing.T) {
					rejectUpdates(t, kind, stage, down)
				})
			}
		}
	}
}

func rejectUpdates(t *testing.T, kind operation, stage string, down error) {
	w := newWorld(1)
	w.backend.TTL, w.backend.MaxTTL = 10*time.Minute, 1000*time.Hour
	if stage != "first" {
		w.pass(10 * time.Second)
		w.person(func(d *v1alpha1.DynamicSecret) { d.Finalizers = nil })
	}
	w.updates = func(of operation) error {
		if of == kind {
			return down
		}
		return nil
	}
	if stage == "deleted" {
		w.person(func(d *v1alpha1.DynamicSecret) { d.Finalizers = []string{v1alpha1.Finalizer} })
		w.delete()
	}
	from := len(w.effects)
	w.pass(time.Hour)
	effects := map[string]int{}
	for _, e := range w.effects[from:] {
		effects[e]++
	}
	reports := 0
	for _, e := range w.events {
		if strings.HasPrefix(e, v1alpha1.ReasonObjectNotUpdated) {
			reports++
		}
	}
	writes := effects["a:status"]
	if kind == writeFinalizer {
		writes = effects["a:finalizer true"] + effects["a:finalizer false"]
	}
	fails := kind == writeFinalizer || stage != "deleted" // a deletion writes no status
	counted := 0
	for _, result := range []backend.ErrorKind{backend.Refused, backend.Failed, backend.NoResponse} {
		counted += w.counts[string(kind)+" "+string(result)]
	}
	if fails && (reports != 1 || counted == 0 || writes < 3 || writes > 75) {
		t.Errorf("%d events, %d failures counted, %d writes in an hour: %v", reports, counted, writes, w.events)
	}
	if n := effects["a:login"]; n > 1 || kind == writeFinalizer && n > 0 {
		t.Errorf("%d logins", n)
	}
	if kind == writeFinalizer && !strings.Contains(w.messages(), "finalizer on this object") {
		t.Errorf("the conditions are %s", w.messages())
	}
	live := len(w.backend.Live())
	if want := map[string]int{"first": 0, "live": 1, "deleted": 0}[stage]; live != want || w.expired() != "" {
		t.Errorf("%d leases live, want %d; %s", live, want, w.expired())
	}
	w.updates = nil
	w.pass(2 * time.Minute)
	if gone := w.object == nil; gone != (stage == "deleted") || !gone && !strings.Contains(w.messages(), "Ready True") {
		t.Errorf("it does not recover: %s", w.messages())
	}
}

func TestVerdictsOnTheAPIServer(t *testing.T) {
	for _, c := range []struct {
		it   string
		err  error
		want backend.ErrorKind
	}{
		{"an error that it reports", apierrors.NewInternalError(errors.New("x")), backend.Failed},
		{"no response", fmt.Errorf("put: %w", context.DeadlineExceeded), backend.NoResponse},
	} {
		if got := backend.KindOf(verdictOf(c.err)); got != c.want {
			t.Errorf("%s is %s, want %s", c.it, got, c.want)
		}
	}
	refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	if err := verdictOf(refused); !errors.Is(err, backend.ErrNotSent) {
		t.Errorf("a refused connection shows nothing about a namespace, got %v", err)
	}
	if verdictOf(nil) != nil {
		t.Error("a success is an error")
	}
}
