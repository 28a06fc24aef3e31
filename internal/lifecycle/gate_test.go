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
	testclock "k8s.io/utils/clock/testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
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

// An admission webhook that hangs in one namespace leaves most workers to the others.
func TestAHangingWebhookUsesAQuarterOfTheWorkers(t *testing.T) {
	const workers = 32
	c := testclock.NewFakeClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	l := &Lifecycle{clock: c, limits: backend.NewLimits(c, workers)}
	release, hanging := make(chan struct{}), 0
	started, ended := make(chan bool), make(chan error)
	for range 3 * workers {
		go func() {
			err := l.gated("write_secret", "hanging", func() error {
				started <- true
				<-release
				return context.DeadlineExceeded
			})
			if errors.As(err, &busyError{}) {
				started <- false
				return
			}
			ended <- err
		}()
		if <-started {
			hanging++
		}
		c.Step(200 * time.Millisecond)
	}
	if hanging == 0 || hanging > workers/4 {
		t.Errorf("%d of %d workers wait for the webhook", hanging, workers)
	}
	if err := l.gated("write_secret", "healthy", func() error { return nil }); err != nil {
		t.Errorf("another namespace waits: %v", err)
	}
	c.Step(30 * time.Second)
	close(release)
	for range hanging {
		<-ended
	}
	c.Step(5 * time.Second)
	probes := 0
	for range workers {
		_ = l.gated("write_secret", "hanging", func() error {
			probes++
			c.Step(30 * time.Second)
			return context.DeadlineExceeded
		})
	}
	if probes == 0 || probes > 2 {
		t.Errorf("%d writes tried whether the webhook is back, want one at a time", probes)
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
