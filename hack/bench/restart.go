package main

import (
	"context"
	"time"
)

// restart holds what a restart of the manager costs with Ready objects.
type restart struct {
	// CredentialsIssued counts the manager's credential requests to Vault. It should be 0.
	CredentialsIssued int `json:"credentialsIssued"`
	// Writes at the API server, events included and leader election excluded.
	Writes   int            `json:"apiWrites"`
	Requests int            `json:"apiRequests"`
	ByKind   map[string]int `json:"apiRequestsByKind"`
	// ManagerCPUSeconds since the new process started, and its peak memory.
	ManagerCPUSeconds float64 `json:"managerCPUSeconds"`
	PeakMiB           float64 `json:"managerPeakMiB"`
	// ObservedSeconds is how long the new process was observed.
	ObservedSeconds float64 `json:"observedSeconds"`
}

const (
	restartQuiet = 15 * time.Second
	restartLimit = time.Minute
)

// restartStep stops the manager in order, as an upgrade does, and starts it again.
func (s *site) restartStep(ctx context.Context, r *result) error {
	if err := s.manager.Stop(); err != nil {
		return err
	}
	calls, err := s.plane.Mark()
	if err != nil {
		return err
	}
	issuances, err := s.vault.Mark()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := s.manager.Run(ctx); err != nil {
		return err
	}
	if err := s.awaitIdle(ctx, restartQuiet, restartLimit); err != nil {
		return err
	}
	r.Restart.ObservedSeconds = time.Since(start).Seconds()
	r.Restart.ManagerCPUSeconds = cpuSeconds(s.manager.PID())
	r.Restart.PeakMiB = peakMiB(s.manager.PID())
	counts, err := s.countRequests(calls)
	if err != nil {
		return err
	}
	r.Restart.Writes, r.Restart.Requests, r.Restart.ByKind = counts.writes, counts.total, counts.byKind
	issued, err := s.vault.Requests(issuances, issuing)
	r.Restart.CredentialsIssued = len(issued)
	return err
}
