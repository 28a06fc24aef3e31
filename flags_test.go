package main

import (
	"strings"
	"testing"
	"time"
)

// usable flags, with the modifications.
func usable(modifiers ...func(*flags)) *flags {
	f := &flags{
		leaseDuration: 15 * time.Second, renewDeadline: 10 * time.Second, retryPeriod: 2 * time.Second,
		kubeTimeout: 30 * time.Second, requestLimit: 150 * time.Second, backendTimeout: 10 * time.Second,
		issueTimeout: time.Minute, providerInterval: time.Minute, providerRetry: 2 * time.Second,
		verifyInterval: 30 * time.Second, concurrency: 32, qps: 300, burst: 600,
	}
	for _, modify := range modifiers {
		modify(f)
	}
	return f
}

func TestUsableFlagsAreAccepted(t *testing.T) {
	least := func(f *flags) { f.requestLimit = 90 * time.Second }
	for _, f := range []*flags{usable(), usable(least)} {
		if err := f.validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestUnusableFlagsAreRejected(t *testing.T) {
	for name, c := range map[string]struct {
		modify func(*flags)
		want   []string
	}{
		"a request limit below the issue time-out": {func(f *flags) { f.requestLimit = 30 * time.Second },
			[]string{"--request-limit is 30s", "--issue-timeout=1m0s", "at least 1m30s", "reduce --issue-timeout"}},
		// The request may be sent 11 s after its journal, and the clocks may differ by 18 s.
		"a request limit with too little margin": {
			func(f *flags) { f.requestLimit = 89 * time.Second },
			[]string{"--request-limit is 1m29s", "an eighth", "a fifth"}},
		"no time-out": {func(f *flags) { f.backendTimeout = 0 }, []string{"--backend-timeout is 0s"}},
		"a negative interval": {func(f *flags) { f.verifyInterval = -1 },
			[]string{"--verify-interval", "positive"}},
		"a negative window": {func(f *flags) { f.rolloutWindow = -1 }, []string{"--rollout-window"}},
		"a name that is none": {func(f *flags) { f.namespaces = []string{"shop", " bank"} },
			[]string{`--namespaces has " bank"`, "without spaces"}},
		"no workers":  {func(f *flags) { f.concurrency = 0 }, []string{"--concurrency is 0"}},
		"no requests": {func(f *flags) { f.qps = 0 }, []string{"--kube-api-qps 0"}},
		"no burst":    {func(f *flags) { f.burst = -1 }, []string{"--kube-api-burst -1"}},
		"a late leader": {func(f *flags) { f.renewDeadline = time.Minute },
			[]string{"renew-deadline", "each must exceed"}},
		"two mistakes": {func(f *flags) { f.kubeTimeout, f.concurrency = 0, 0 },
			[]string{"--kube-api-timeout", "--concurrency"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := usable(c.modify).validate()
			for _, part := range c.want {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("%v, want %q in it", err, part)
				}
			}
		})
	}
}
