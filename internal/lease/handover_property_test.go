package lease

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// limits are what a backend grants, in the test of handovers. Nobody knows the maxima in advance.
type limits struct {
	ttl, maximum           time.Duration
	tokenTTL, tokenMaximum time.Duration
	// ignores: the backend grants ttl, whatever is requested, and no response says that it is capped.
	ignores bool
}

func drawLimits(t *rapid.T) limits {
	seconds := func(label string, from, to time.Duration) time.Duration {
		return time.Duration(rapid.Int64Range(int64(from/time.Second), int64(to/time.Second)).Draw(t, label)) *
			time.Second
	}
	l := limits{ttl: seconds("TTL", time.Minute, 2*time.Hour), ignores: maybe(t, "the increment is ignored")}
	l.maximum = seconds("maximum TTL", l.ttl, 20*l.ttl)
	l.tokenTTL = seconds("token TTL", l.ttl/4, 4*l.ttl)
	l.tokenMaximum = seconds("maximum TTL of the token", l.tokenTTL, 20*l.ttl)
	return l
}

// end of a lease that was issued at the start and is extended as far as possible.
func (l limits) end(start time.Time) time.Time {
	return start.Add(min(l.maximum, l.tokenMaximum))
}

// Whatever the maxima of leases and tokens are: the successor of a lease is issued while a whole handover still fits,
// unless that takes more than two thirds of the lease's life. It is not issued much earlier either.
func TestASuccessorIsIssuedInTimeForTheHandover(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimits(t)
		seconds := rapid.IntRange(1, 10*int(l.ttl/time.Second)).Draw(t, "overlap in seconds")
		overlap := time.Duration(seconds) * time.Second
		percent := oneOf(t, "renewAtPercent", int32(10), 67, 90)
		in := input(overlapping(overlap), leaseSpec(func(s *v1alpha1.LeaseSpec) { s.RenewAtPercent = percent }))
		in.Object.UID = types.UID(oneOf(t, "uid", string(noJitter), string(muchJitter)))
		for n := range 3 {
			start := in.Now
			issueOf(&in, n, l)
			known := in.Object.Status.Leases[0].MaxTTLSeconds > 0
			extensions := l.follow(t, &in, start)
			left, life := l.end(start).Sub(in.Now), l.end(start).Sub(start)
			// Recorded times are whole seconds, and expiries that differ by little count as equal.
			needed := min(overlap+expiryEpsilon, life*2/3-3*expiryEpsilon)
			// A backend that ignores the requested duration reveals its maximum only at the end of the lease.
			if (known || !l.ignores) && left < needed {
				t.Fatalf("lease %d is replaced after %s, %s before its end, which is less than %s: %+v",
					n, life-left, left, needed, l)
			}
			if extensions > 30+30*int(life/min(l.ttl, l.tokenTTL)) {
				t.Fatalf("lease %d was extended %d times in %s: %+v", n, extensions, life-left, l)
			}
		}
	})
}

// issueOf puts the n-th lease in the Secret.
func issueOf(in *Input, n int, l limits) {
	rec := record(numbered(n))
	rec.StartedAt = metav1.NewTime(in.Now)
	SetSession(rec, tokenOf(n), Term{At: in.Now, Duration: l.tokenTTL, Renewable: true})
	Respond(rec, v1alpha1.ResponseLeased, leaseOf(n), Term{At: in.Now, Duration: l.ttl, Renewable: true})
	Record(in.Object, values([]*v1alpha1.LeaseRecord{rec}), CauseFirst, "digest-1", in.Now)
	in.Object.Status.Secret, in.Object.Status.Retiring, in.Target = writtenSecret("digest-1"), nil, TargetCurrent
}

// follow plays the backend until the successor of the lease is due. It counts renewals and extensions.
func (l limits) follow(t *rapid.T, in *Input, start time.Time) (extensions int) {
	for range 20_000 {
		rec := &in.Object.Status.Leases[0]
		switch s := Plan(*in); s.Action {
		case Issue:
			return extensions
		case Wait:
			in.Now = s.At
		case RenewLease:
			extensions++
			requested := Increment(in.Object, rec, in.Now)
			Renewed(rec, l.renewal(in.Now, start, requested), requested)
		case ExtendSession:
			extensions++
			left := start.Add(l.tokenMaximum).Sub(in.Now)
			SessionExtended(rec, Term{At: in.Now, Duration: left, Renewable: true, Capped: true})
		default:
			t.Fatalf("%+v for %+v after %s", s, rec, in.Now.Sub(start))
		}
	}
	t.Fatal("no successor is issued")
	return 0
}

func (l limits) renewal(now, start time.Time, requested time.Duration) Term {
	if l.ignores {
		requested = l.ttl
	}
	granted := min(requested, start.Add(l.maximum).Sub(now)).Truncate(time.Second)
	return Term{At: now, Duration: granted, Renewable: true, Capped: !l.ignores && granted < requested}
}
