//go:build integration

package e2e

import "github.com/leasekeeper/leasekeeper/api/v1alpha1"

// hasLease reports whether the object has the record of exactly one source.
func hasLease(d *v1alpha1.DynamicSecret) bool { return len(d.Status.Leases) == 1 }

// record is the object's only record; without one, or with several, it is empty.
func record(d *v1alpha1.DynamicSecret) *v1alpha1.LeaseRecord {
	if !hasLease(d) {
		return &v1alpha1.LeaseRecord{}
	}
	return &d.Status.Leases[0]
}

func leaseID(d *v1alpha1.DynamicSecret) string { return record(d).ID }

// hasNewLease reports whether the object has another lease than before.
func hasNewLease(before, d *v1alpha1.DynamicSecret) bool {
	return hasLease(d) && leaseID(d) != leaseID(before)
}

// accessor of the token that issued the credential.
func accessor(d *v1alpha1.DynamicSecret) string { return record(d).Handle() }

// session is the term of the token that issued the credential; the zero value if there is none.
func session(d *v1alpha1.DynamicSecret) v1alpha1.SessionTerm {
	if s := record(d).Session; s != nil {
		return *s
	}
	return v1alpha1.SessionTerm{}
}

// retires reports whether the object still has to revoke the lease.
func retires(d *v1alpha1.DynamicSecret, id string) bool {
	for i := range d.Status.Retiring {
		if d.Status.Retiring[i].ID == id {
			return true
		}
	}
	return false
}
