package provider

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// conditionsOf a provider, such as "Ready=False Stalled=True".
func conditionsOf(p v1alpha1.Provider) string {
	var out []string
	for _, kind := range []string{v1alpha1.ReadyCondition, v1alpha1.ReconcilingCondition, v1alpha1.StalledCondition} {
		if c := meta.FindStatusCondition(p.ProviderStatus().Conditions, kind); c != nil {
			out = append(out, fmt.Sprintf("%s=%s", kind, c.Status))
		}
	}
	return strings.Join(out, " ")
}

func TestJudge(t *testing.T) {
	const ready, retrying, stuck = "Ready=True", "Ready=False Reconciling=True", "Ready=False Stalled=True"
	found := backend.Report{ServerKind: "OpenBao", Version: "2.5.0"}
	found.Address, found.Identity = "https://vault.test:8200", `role "keeper"`
	lacking := found
	lacking.Missing = []string{"sys/leases/lookup: update", "sys/leases/revoke: update"}
	unattended, unattendedLacking := found, lacking
	unattended.Unattended, unattended.Notes = true, []string{"keeperAuth is not set."}
	unattendedLacking.Unattended, unattendedLacking.Remedy = true, "Or accept this."
	accepted := unattendedLacking
	accepted.Accepted = true
	advised := found
	advised.Advised = []string{"sys/leases/lookup/database/creds/orders: list, sudo"}
	faulty := unattended
	faulty.Faults = []string{"Upgrade it."}
	server := &v1alpha1.ServerStatus{Kind: "OpenBao", Version: "2.5.0"}
	before := &v1alpha1.ServerStatus{Kind: "Vault", Version: "1.0.0"}
	failed := func(kind backend.ErrorKind) error { return backend.Errorf(kind, "what to do") }

	for _, c := range []struct {
		it, because        string
		provider           *v1alpha1.ClusterSecretProvider
		report             backend.Report
		err                error
		conditions, reason string
		message            []string
		missing            []string
		server             *v1alpha1.ServerStatus
	}{{
		it: "is ready with all permissions", because: "leases can be issued, renewed and revoked",
		provider: clusterProvider(), report: found,
		conditions: ready, reason: v1alpha1.ReasonReachable,
		message: []string{"https://vault.test:8200 is reachable."}, server: server,
	}, {
		it: "forgets permissions that were missing", because: "somebody corrected the policy",
		provider: clusterProvider(lackedBefore), report: found,
		conditions: ready, reason: v1alpha1.ReasonReachable, server: server,
	}, {
		it: "is stalled without a permission", because: "only a person can grant it",
		provider: clusterProvider(), report: lacking,
		conditions: stuck, reason: v1alpha1.ReasonPolicyIncomplete,
		message: append([]string{`Role "keeper" lacks`}, lacking.Missing...), missing: lacking.Missing, server: server,
	}, {
		it: "is ready without an identity of its own", because: "the promise is weaker, and the message says so",
		provider: clusterProvider(), report: unattended,
		conditions: ready, reason: v1alpha1.ReasonUnattended,
		message: []string{"keeperAuth is not set."}, server: server,
	}, {
		it: "is stalled if the borrowed identity lacks permissions", because: "it would issue what it cannot revoke",
		provider: clusterProvider(), report: unattendedLacking,
		conditions: stuck, reason: v1alpha1.ReasonPolicyIncomplete,
		message: append([]string{"Or accept this."}, lacking.Missing...), missing: lacking.Missing, server: server,
	}, {
		it: "is ready if the spec accepts what lacks", because: "leases may have to be abandoned",
		provider: clusterProvider(), report: accepted,
		conditions: ready, reason: v1alpha1.ReasonUnattended,
		message: append([]string{"abandoned"}, lacking.Missing...), missing: lacking.Missing, server: server,
	}, {
		it: "is ready on a server with known faults", because: "it may have no standby, and renewals must continue",
		provider: clusterProvider(), report: faulty,
		conditions: ready, reason: v1alpha1.ReasonFaultyVersion,
		message: []string{"is reachable. Upgrade it.", "keeperAuth is not set."}, server: server,
	}, {
		it: "names permissions that would help", because: "it works without them",
		provider: clusterProvider(), report: advised,
		conditions: ready, reason: v1alpha1.ReasonReachable,
		message: append([]string{"one by one"}, advised.Advised...), server: server,
	}, {
		it: "keeps what it knew of an unavailable server", because: "nothing was learnt",
		provider: clusterProvider(lackedBefore), err: failed(backend.Unavailable),
		conditions: retrying, reason: v1alpha1.ReasonBackendUnavailable, message: []string{"what to do"},
		missing: []string{"sys/leases/renew: update"}, server: before,
	}, {
		it: "retries without a response", because: "no person has to act",
		provider: clusterProvider(), err: failed(backend.NoResponse),
		conditions: retrying, reason: v1alpha1.ReasonBackendUnavailable,
	}, {
		it: "retries after an error of the server", because: "no person has to act",
		provider: clusterProvider(), err: failed(backend.Failed),
		conditions: retrying, reason: v1alpha1.ReasonBackendError,
	}, {
		it: "is stalled by a refused login", because: "a person must correct the role",
		provider: clusterProvider(), err: failed(backend.LoginFailed),
		conditions: stuck, reason: v1alpha1.ReasonLoginFailed, message: []string{"what to do"},
	}, {
		it: "is stalled by a bad certificate", because: "a person must correct it",
		provider: clusterProvider(), err: failed(backend.TLS),
		conditions: stuck, reason: v1alpha1.ReasonTLSFailed,
	}, {
		it: "is stalled by a bad reference", because: "a person must correct it",
		provider: clusterProvider(), err: failed(backend.Misconfigured),
		conditions: stuck, reason: v1alpha1.ReasonInvalidSpec,
	}} {
		t.Run(c.it, func(t *testing.T) {
			judge(c.provider, c.report, c.err, t0.Time)
			st := c.provider.ProviderStatus()
			if got := conditionsOf(c.provider); got != c.conditions {
				t.Errorf("because %s: %s, want %s", c.because, got, c.conditions)
			}
			for _, cond := range st.Conditions {
				if cond.Reason != c.reason || cond.ObservedGeneration != 4 || cond.Message == "" {
					t.Errorf("because %s: %+v, want reason %s of generation 4 with a message",
						c.because, cond, c.reason)
				}
				for _, part := range c.message {
					if !strings.Contains(cond.Message, part) {
						t.Errorf("because %s: %q does not contain %q", c.because, cond.Message, part)
					}
				}
			}
			missing, advised := st.MissingCapabilities, st.AdvisedCapabilities
			if !slices.Equal(missing, c.missing) || !slices.Equal(advised, c.report.Advised) {
				t.Errorf("because %s: missing %v, advised %v", c.because, missing, advised)
			}
			if !reflect.DeepEqual(st.Server, c.server) {
				t.Errorf("because %s: server %+v, want %+v", c.because, st.Server, c.server)
			}
		})
	}
}

func TestJudgingTheSameAgainChangesNothing(t *testing.T) {
	for _, c := range []struct {
		of     string
		report backend.Report
		err    error
	}{
		{"a ready provider", backend.Report{ServerKind: "Vault", Version: "1.21.0"}, nil},
		{"an unavailable one", backend.Report{}, backend.Errorf(backend.Unavailable, "it is unavailable")},
		{"a stalled one", backend.Report{Missing: []string{"sys/leases/revoke: update"}}, nil},
	} {
		t.Run(c.of, func(t *testing.T) {
			p := clusterProvider()
			judge(p, c.report, c.err, t0.Time)
			before := p.Status.DeepCopy()
			judge(p, c.report, c.err, t0.Add(time.Hour))
			if !reflect.DeepEqual(before, &p.Status) {
				t.Errorf("each inspection would be a write:\n%+v\n%+v", *before, p.Status)
			}
		})
	}
}
