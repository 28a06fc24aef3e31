package provider

import (
	"context"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// hanging is a bed whose inspections hang. The first one, which finds that out, was cancelled.
func hanging(t *testing.T) *bed {
	t.Helper()
	b := newBed(t, clusterProvider())
	b.hangs, b.err = true, backend.Errorf(backend.NoResponse, "no response in time")
	b.Patience = time.Millisecond
	pause, p := b.run()
	if pause != atOnce || Ready(p).Status != "" {
		t.Fatalf("after the first inspection, the pause is %s and Ready %+v", pause, Ready(p))
	}
	b.hangs = false // it ends with the error after its full time
	return b
}

func TestHangingInspectionsBackOffToMinutes(t *testing.T) {
	b := hanging(t)
	var pauses []time.Duration
	for range 8 {
		pause, _ := b.run()
		pauses = append(pauses, pause/time.Minute)
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 32, 64, 64}; !slices.Equal(pauses, want) {
		t.Errorf("the pauses are %v retry intervals, want %v", pauses, want)
	}
	b.recoveries++
	if pause, _ := b.run(); pause != time.Minute {
		t.Errorf("after a recovery of the server, the pause is %s", pause)
	}
}

func TestSlowInspectionThatSucceedsIsReady(t *testing.T) {
	b := hanging(t)
	b.err = nil
	if pause, p := b.run(); Ready(p).Status != metav1.ConditionTrue || pause != time.Hour {
		t.Errorf("the pause is %s, Ready %+v", pause, Ready(p))
	}
}

func TestReadyProviderStaysReadyUntilItsFullInspectionFails(t *testing.T) {
	b := newBed(t, clusterProvider())
	b.run()
	b.hangs, b.err = true, backend.Errorf(backend.NoResponse, "no response in time")
	b.Patience = time.Millisecond
	if _, p := b.run(); Ready(p).Status != metav1.ConditionTrue {
		t.Errorf("after an inspection that was cancelled: %+v", Ready(p))
	}
	leave, _ := b.hanging.Enter("another", b.clock.Now(), time.Minute)
	if pause, p := b.run(); Ready(p).Status != metav1.ConditionTrue || pause != b.RetryInterval {
		t.Errorf("while it waits for its turn: next run in %s, %+v", pause, Ready(p))
	}
	leave()
	b.hangs = false
	if _, p := b.run(); Ready(p).Reason != v1alpha1.ReasonBackendUnavailable {
		t.Errorf("after a full inspection: %+v", Ready(p))
	}
}

func TestProviderThatWaitsForItsTurnReportsWhy(t *testing.T) {
	b := hanging(t)
	leave, _ := b.hanging.Enter("another", b.clock.Now(), time.Minute)
	defer leave()
	for range 2 {
		pause, p := b.run()
		if ready := Ready(p); ready.Reason != v1alpha1.ReasonBackendUnavailable || pause != b.RetryInterval {
			t.Errorf("next run in %s, %+v", pause, ready)
		}
	}
}

func TestShutdownIsNotAHang(t *testing.T) {
	b := newBed(t, clusterProvider())
	b.hangs, b.err = true, backend.Errorf(backend.NoResponse, "the request was cancelled")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := clusterProvider()
	if _, _, err := b.inspectInTurn(ctx, p); err == nil || b.known(p).hangs != nil {
		t.Errorf("error %v, known: %+v", err, b.known(p))
	}
}
