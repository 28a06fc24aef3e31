package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// entries of a list that is separated by commas; an empty list has none.
func entries(list string) []string {
	if strings.TrimSpace(list) == "" {
		return nil
	}
	return strings.Split(list, ",")
}

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
	if least := f.issueTimeout + f.issueTimeout/2; f.requestLimit < least {
		errs = append(errs, fmt.Errorf("--request-limit is %s: with --issue-timeout=%s set at least %s, or reduce "+
			"--issue-timeout. A request is sent up to an eighth of the limit after it is recorded, and the clocks of "+
			"replicas may differ by a fifth of the limit, so with less a credential could be issued after its token "+
			"was revoked",
			f.requestLimit, f.issueTimeout, least))
	}
	if f.leaseDuration <= f.renewDeadline || f.renewDeadline <= f.retryPeriod {
		errs = append(errs, fmt.Errorf("--leader-election-lease-duration, --leader-election-renew-deadline and "+
			"--leader-election-retry-period are %s, %s and %s: each must exceed the next",
			f.leaseDuration, f.renewDeadline, f.retryPeriod))
	}
	for _, namespace := range f.namespaces {
		if len(validation.IsDNS1123Label(namespace)) > 0 {
			errs = append(errs, fmt.Errorf("--namespaces has %q, which is not the name of a namespace: "+
				"separate names by commas, without spaces", namespace))
		}
	}
	return errors.Join(errs...)
}
