package main

import (
	"fmt"
	"slices"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// managerUser is the manager's name at the API server.
const managerUser = "system:serviceaccount:" + testbed.ManagerNamespace + ":" + testbed.ManagerAccount

// requests are counted in the API server's audit log, which records only what manifests/audit-policy.yaml names. The
// API server's metrics would be cheaper, but they do not distinguish users.
type requests struct {
	// byKind counts the manager's requests, by kindOf.
	byKind map[string]int
	total  int
	// writes are those of total that changed something: no reads, dry runs, token requests or errors.
	writes int
	// leaderElection is not in total: it costs the same with any number of objects.
	leaderElection int
	// tokenReviews are made by Vault, one for each login.
	tokenReviews int
}

// countRequests counts what the API server answered since the mark.
func (s *site) countRequests(since testbed.Mark) (requests, error) {
	counts := requests{byKind: map[string]int{}}
	_, err := s.plane.Requests(since, func(r testbed.APIRequest) bool {
		counts.add(r)
		return false // only count
	})
	return counts, err
}

func (c *requests) add(r testbed.APIRequest) {
	switch {
	case r.User != managerUser:
		if r.Resource == "tokenreviews" {
			c.tokenReviews++
		}
	case r.Verb == "watch":
	case r.Resource == "leases": // of coordination.k8s.io
		c.leaderElection++
	default:
		c.total++
		c.byKind[kindOf(r)]++
		if writes(r) {
			c.writes++
		}
	}
}

// kindOf returns verb, resource and subresource, a dry run and an error's code told apart: "create secrets (dry run)".
func kindOf(r testbed.APIRequest) string {
	kind := r.Verb + " " + r.Resource
	if r.Resource == "" {
		kind += "(no resource)" // such as API discovery
	}
	if r.Subresource != "" {
		kind += "/" + r.Subresource
	}
	if r.DryRun {
		kind += " (dry run)"
	}
	if r.Code >= 300 {
		kind += fmt.Sprintf(" (%d)", r.Code)
	}
	return kind
}

func writes(r testbed.APIRequest) bool {
	changes := slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, r.Verb)
	return changes && !r.DryRun && r.Code < 300 && r.Subresource != "token"
}
