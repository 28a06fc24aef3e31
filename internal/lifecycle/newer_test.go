package lifecycle

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// A ledger that a newer version wrote is left alone, and that is reported. Nothing is lost: the newer version
// continues.
func TestNewerLedgerIsLeftAloneAndReported(t *testing.T) {
	w := newWorld(1)
	p := w.procs[0]
	w.pass(time.Minute)
	version := func(n int32) { w.person(func(d *v1alpha1.DynamicSecret) { d.Status.LedgerVersion = n }) }
	version(lease.Version + 1)
	ledger, before := w.object.Status.DeepCopy(), len(w.effects)
	reported := func(ready bool) {
		t.Helper()
		st := w.object.Status
		stalled := meta.FindStatusCondition(st.Conditions, v1alpha1.StalledCondition)
		if stalled == nil || stalled.Reason != v1alpha1.ReasonNewerLedger || st.Summary != stalled.Reason ||
			!strings.Contains(st.Message, "upgrade leasekeeper") {
			t.Errorf("the status is %+v", st)
		}
		if meta.IsStatusConditionTrue(st.Conditions, v1alpha1.ReadyCondition) != ready {
			t.Errorf("Ready is not %v: %+v", ready, st.Conditions)
		}
	}
	at, _ := p.run(nil)
	reported(true)
	if !at.Equal(w.object.Status.ExpiresAt.Time) {
		t.Errorf("it continues at %s, the credential expires at %s", at, w.object.Status.ExpiresAt)
	}
	w.clock.SetTime(at)
	_, _ = p.run(nil)
	reported(false)
	w.delete()
	for range 5 {
		_, _ = p.run(nil)
	}
	reported(false)
	for _, e := range w.effects[before:] {
		if e != "a:patch status" {
			t.Errorf("effect %s", e)
		}
	}
	events := slices.DeleteFunc(slices.Clone(w.events), func(e string) bool {
		return !strings.HasPrefix(e, v1alpha1.ReasonNewerLedger)
	})
	if len(events) != 1 || len(w.object.Finalizers) != 1 {
		t.Errorf("events %q, object %+v", events, w.object)
	}
	st := w.object.Status.DeepCopy()
	st.Conditions, st.Summary, st.Message = ledger.Conditions, ledger.Summary, ledger.Message
	if a, b := asJSON(t, st), asJSON(t, ledger); a != b {
		t.Errorf("the ledger is %s, was %s", a, b)
	}

	version(lease.Version)
	if err := w.settle(); err != nil || w.object != nil || len(w.backend.Live()) > 0 {
		t.Errorf("after the upgrade: %v, %+v", err, w.object)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// The patch names what has changed, and no field that this version might have read incompletely.
func TestPatchOfTheConditionsHasNothingElse(t *testing.T) {
	d := ledgerOf("orders", v1alpha1.DynamicSecretStatus{LedgerVersion: 2,
		Leases: []v1alpha1.LeaseRecord{vaultRecord("l", "a")}})
	var sent []byte
	c := interceptor.NewClient(apiServer(t, d).Build(), interceptor.Funcs{SubResourcePatch: func(
		_ context.Context, _ client.Client, _ string, o client.Object, patch client.Patch,
		_ ...client.SubResourcePatchOption,
	) (err error) {
		sent, err = patch.Data(o)
		return err
	}})
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
		t.Fatal(err)
	}
	before := d.DeepCopy()
	d.Status.Conditions = []metav1.Condition{{Type: v1alpha1.StalledCondition}}
	if err := (apiObjects{writer: c}).PatchStatus(t.Context(), before, d); err != nil {
		t.Fatal(err)
	}
	var patch map[string]map[string]any
	if err := json.Unmarshal(sent, &patch); err != nil {
		t.Fatal(err)
	}
	metadata, status := slices.Sorted(maps.Keys(patch["metadata"])), slices.Sorted(maps.Keys(patch["status"]))
	if !slices.Equal(metadata, []string{"resourceVersion"}) || !slices.Equal(status, []string{"conditions"}) {
		t.Errorf("the patch is %s", sent)
	}
}
