package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// sizeLimit bounds the work on one size, so that a hanging step ends with an error.
const sizeLimit = 30 * time.Minute

// result holds the figures of one size.
type result struct {
	Objects                int     `json:"objects"`
	CELPerStatusWrite      float64 `json:"celEvaluationsPerStatusWrite"`
	CELPerStatusWriteFull  float64 `json:"celEvaluationsPerStatusWriteAllFields"`
	BareLoopSeconds        float64 `json:"bareLoopSeconds"`
	BareAPIServerCPUMillis float64 `json:"bareLoopAPIServerCPUMillisPerObject"`
	CreatedSeconds         float64 `json:"createdSeconds"`
	FirstSync              phase   `json:"firstSync"`
	// Ratio is the time of the first sync divided by that of the bare loop.
	Ratio    float64   `json:"firstSyncToBareLoop"`
	Restart  restart   `json:"restart"`
	Deletion phase     `json:"deletion"`
	Left     leftovers `json:"leftAfterDeletion"`
}

// measureSize starts fresh servers, runs every step with n objects, and stops the servers.
func measureSize(ctx context.Context, opts options, n int) (r result, err error) {
	ctx, cancel := context.WithTimeout(ctx, sizeLimit)
	defer cancel()
	start := time.Now()
	s, err := openSite(ctx, opts)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r.Objects = n
	for _, step := range []struct {
		name string
		do   func(context.Context, *result) error
	}{
		{"CEL evaluations per status write", s.celStep},
		{"bare loop: log in and read a credential", s.bareStep},
		{"first sync", s.syncStep},
		{"restart of the manager", s.restartStep},
		{"deletion", s.deletionStep},
	} {
		progress("%d objects: %s", n, step.name)
		if err := step.do(ctx, &r); err != nil {
			err = fmt.Errorf("%s: %w", step.name, err)
			if errors.Is(ctx.Err(), context.Canceled) {
				return r, err // the manager's log does not explain an interruption
			}
			return r, errors.Join(err, s.lastWords())
		}
	}
	progress("%d objects: done after %s", n, time.Since(start).Round(time.Second))
	return r, nil
}

// syncStep creates the objects and waits until all are Ready.
func (s *site) syncStep(ctx context.Context, r *result) (err error) {
	t, err := startTracker(ctx, s.plane.Config)
	if err != nil {
		return err
	}
	defer t.stop()
	r.FirstSync, err = s.measure(ctx, r.Objects, func() error {
		start := time.Now()
		if err := s.createObjects(ctx, r.Objects); err != nil {
			return err
		}
		r.CreatedSeconds = time.Since(start).Seconds()
		return t.await(ctx, "Ready", t.ready, r.Objects)
	})
	r.Ratio = r.FirstSync.Seconds / r.BareLoopSeconds
	return errors.Join(err, s.saveHeap(ctx, r.Objects))
}

// deletionStep deletes the objects, waits until all are gone and counts the leases and tokens that remain.
func (s *site) deletionStep(ctx context.Context, r *result) (err error) {
	t, err := startTracker(ctx, s.plane.Config)
	if err != nil {
		return err
	}
	defer t.stop()
	if err := t.await(ctx, "seen", t.live, r.Objects); err != nil {
		return err
	}
	r.Deletion, err = s.measure(ctx, r.Objects, func() error {
		if err := s.deleteObjects(ctx, r.Objects); err != nil {
			return err
		}
		return t.await(ctx, "gone", func() int { return r.Objects - t.live() }, r.Objects)
	})
	if err != nil {
		return err
	}
	r.Left, err = s.awaitNothingLeft(ctx)
	return err
}
