package main

import (
	"context"
	"runtime"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// phase holds the figures of one measured phase. Figures per object are the phase's total divided by all objects, so
// they include the few requests that are not made for an object.
type phase struct {
	Seconds                float64            `json:"seconds"`
	RequestsPerObject      float64            `json:"requestsPerObject"`
	ByKind                 map[string]float64 `json:"requestsPerObjectByKind"`
	TokenReviewsPerObject  float64            `json:"tokenReviewsPerObject"`
	CELPerObject           float64            `json:"celEvaluationsPerObject"`
	LeaderElectionRequests int                `json:"leaderElectionRequests"`
	ManagerCPUMillis       float64            `json:"managerCPUMillisPerObject"`
	APIServerCPUMillis     float64            `json:"apiserverCPUMillisPerObject"`
	// OtherCPUPercent is the share of all processors that unrelated programs used until do returned.
	OtherCPUPercent float64 `json:"otherProgramsCPUPercent"`
	// PeakMiB is the manager's peak since its process started, not since the phase started.
	PeakMiB float64 `json:"managerPeakMiB"`
}

// settled is how long the manager must make no request until its work counts as done.
const settled = 3 * time.Second

// measure runs do, a phase of n objects. Seconds is the duration of do. The requests and CPU are counted until the
// manager is idle again, because it sends events later.
func (s *site) measure(ctx context.Context, n int, do func() error) (p phase, err error) {
	mark, err := s.plane.Mark()
	if err != nil {
		return p, err
	}
	cel, err := s.celEvaluations(ctx)
	if err != nil {
		return p, err
	}
	manager, apiserver := cpuSeconds(s.manager.PID()), cpuSeconds(s.plane.APIServerPID())
	others, start := otherSeconds(), time.Now()
	if err := do(); err != nil {
		return p, err
	}
	p.Seconds = time.Since(start).Seconds()
	p.OtherCPUPercent = max(0, otherSeconds()-others) * 100 / p.Seconds / float64(runtime.NumCPU())
	if err := s.awaitIdle(ctx, settled, time.Minute); err != nil {
		return p, err
	}
	objects := float64(n)
	p.ManagerCPUMillis = (cpuSeconds(s.manager.PID()) - manager) * 1000 / objects
	p.APIServerCPUMillis = (cpuSeconds(s.plane.APIServerPID()) - apiserver) * 1000 / objects
	p.PeakMiB = peakMiB(s.manager.PID())
	celAfter, err := s.celEvaluations(ctx)
	if err != nil {
		return p, err
	}
	p.CELPerObject = (celAfter - cel) / objects
	counts, err := s.countRequests(mark)
	p.RequestsPerObject = float64(counts.total) / objects
	p.TokenReviewsPerObject = float64(counts.tokenReviews) / objects
	p.LeaderElectionRequests = counts.leaderElection
	p.ByKind = map[string]float64{}
	for kind, count := range counts.byKind {
		p.ByKind[kind] = float64(count) / objects
	}
	return p, err
}

// awaitIdle returns when the manager has made no request except for leader election during quiet, or at the limit.
func (s *site) awaitIdle(ctx context.Context, quiet, limit time.Duration) error {
	mark, err := s.plane.Mark()
	if err != nil {
		return err
	}
	start := time.Now()
	last := start
	for time.Since(last) < quiet {
		if time.Since(start) >= limit {
			progress("the manager still makes requests after %s", limit)
			return nil
		}
		if err := sleep(ctx, time.Second/2); err != nil {
			return err
		}
		mark, last, err = s.nextCheck(mark, last)
		if err != nil {
			return err
		}
	}
	return nil
}

// nextCheck returns where the next check begins, and the time of the last request.
func (s *site) nextCheck(since testbed.Mark, last time.Time) (testbed.Mark, time.Time, error) {
	next, err := s.plane.Mark()
	if err != nil {
		return since, last, err
	}
	// Lines written after the mark are counted now and in the next check, which only makes the wait longer.
	counts, err := s.countRequests(since)
	if counts.total > 0 {
		last = time.Now()
	}
	return next, last, err
}
