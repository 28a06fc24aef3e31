package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"
)

const (
	// celWrites is how many status updates the bench makes.
	celWrites = 50
	celMetric = "apiserver_cel_evaluation_duration_seconds_count"
)

// celStep counts the CEL rules that the API server evaluates for one status write, of the object that the bench creates
// by thousands and of one with most optional fields set.
func (s *site) celStep(ctx context.Context, r *result) (err error) {
	if r.CELPerStatusWrite, err = s.celOf(ctx, "cel", objectManifest); err != nil {
		return err
	}
	r.CELPerStatusWriteFull, err = s.celOf(ctx, "cel-full", fullManifest)
	return err
}

func (s *site) celOf(ctx context.Context, name, manifest string) (perWrite float64, err error) {
	t, err := startTracker(ctx, s.plane.Config)
	if err != nil {
		return 0, err
	}
	defer t.stop()
	text, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		return 0, err
	}
	for _, step := range []func() error{
		func() error { return s.createObject(ctx, text, name) },
		func() error { return t.await(ctx, "seen", t.live, 1) },
		func() error { return s.awaitIdle(ctx, settled, time.Minute) },
		func() (err error) { perWrite, err = s.celPerStatusWrite(ctx, name); return err },
		func() error { return s.objects().Delete(ctx, name, metav1.DeleteOptions{}) },
		func() error { return t.await(ctx, "gone", func() int { return 1 - t.live() }, 1) },
		func() error { return s.awaitIdle(ctx, settled, time.Minute) },
	} {
		if err := step(); err != nil {
			return 0, err
		}
	}
	return perWrite, nil
}

// celPerStatusWrite updates the status many times. The manager has nothing to do meanwhile; if it reacts with writes of
// its own, these are counted too.
func (s *site) celPerStatusWrite(ctx context.Context, name string) (float64, error) {
	mark, err := s.plane.Mark()
	if err != nil {
		return 0, err
	}
	before, err := s.celEvaluations(ctx)
	if err != nil {
		return 0, err
	}
	for i := range celWrites {
		if err := s.writeCondition(ctx, name, fmt.Sprintf("write %d", i)); err != nil {
			return 0, err
		}
	}
	after, err := s.celEvaluations(ctx)
	if err != nil {
		return 0, err
	}
	counts, err := s.countRequests(mark)
	return (after - before) / float64(celWrites+counts.writes), err
}

// writeCondition updates the status by a condition that only the bench knows, so that the manager has no reason to act.
func (s *site) writeCondition(ctx context.Context, name, message string) error {
	object, err := s.objects().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	conditions, _, err := unstructured.NestedSlice(object.Object, "status", "conditions")
	if err != nil {
		return err
	}
	kept := conditions[:0]
	for _, c := range conditions {
		if fields, ok := c.(map[string]any); !ok || fields["type"] != "Bench" {
			kept = append(kept, c)
		}
	}
	kept = append(kept, map[string]any{
		"type": "Bench", "status": "True", "reason": "Measured", "message": message,
		"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
	})
	if err := unstructured.SetNestedSlice(object.Object, kept, "status", "conditions"); err != nil {
		return err
	}
	_, err = s.objects().UpdateStatus(ctx, object, metav1.UpdateOptions{})
	return err
}

// celEvaluations reads the API server's counter.
func (s *site) celEvaluations(ctx context.Context) (float64, error) {
	client, err := kubernetes.NewForConfig(s.plane.Config)
	if err != nil {
		return 0, err
	}
	text, err := client.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, err
	}
	return sumMetric(string(text), celMetric)
}

// sumMetric adds all series of a metric in Prometheus' text format.
func sumMetric(text, name string) (sum float64, err error) {
	found := false
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || (rest[0] != ' ' && rest[0] != '{') {
			continue
		}
		fields := strings.Fields(rest)
		value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", strings.TrimSpace(line), err)
		}
		sum, found = sum+value, true
	}
	if !found {
		return 0, fmt.Errorf("the API server has no metric %s", name)
	}
	return sum, nil
}
