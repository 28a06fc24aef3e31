package main

import (
	"errors"
	"fmt"
	"time"
)

// validate returns what is wrong with the flags, all of it, and what to set.
func (f *flags) validate() error {
	var errs []error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"leader-election-lease-duration", f.leaseDuration}, {"leader-election-renew-deadline", f.renewDeadline},
		{"leader-election-retry-period", f.retryPeriod}, {"kube-api-timeout", f.kubeTimeout},
		{"request-limit", f.requestLimit}, {"backend-timeout", f.backendTimeout}, {"issue-timeout", f.issueTimeout},
		{"provider-interval", f.providerInterval}, {"provider-retry-interval", f.providerRetry},
		{"verify-interval", f.verifyInterval},
	} {
		if d.value <= 0 {
			errs = append(errs, fmt.Errorf("--%s is %s: set a positive duration, such as 30s", d.name, d.value))
		}
	}
	if f.rolloutWindow < 0 {
		errs = append(errs, fmt.Errorf("--rollout-window is %s: set 0s or more", f.rolloutWindow))
	}
	if f.concurrency < 1 || f.qps <= 0 || f.burst < 1 {
		errs = append(errs, fmt.Errorf("--concurrency is %d, --kube-api-qps %v and --kube-api-burst %d: "+
			"set positive numbers", f.concurrency, f.qps, f.burst))
	}
	if f.requestLimit <= f.issueTimeout {
		errs = append(errs, fmt.Errorf("--request-limit is %s, which does not exceed --issue-timeout, %s: "+
			"a credential could be issued after its token was revoked; increase --request-limit or "+
			"reduce --issue-timeout",
			f.requestLimit, f.issueTimeout))
	}
	if f.leaseDuration <= f.renewDeadline || f.renewDeadline <= f.retryPeriod {
		errs = append(errs, fmt.Errorf("--leader-election-lease-duration, --leader-election-renew-deadline and "+
			"--leader-election-retry-period are %s, %s and %s: each must exceed the next",
			f.leaseDuration, f.renewDeadline, f.retryPeriod))
	}
	return errors.Join(errs...)
}
