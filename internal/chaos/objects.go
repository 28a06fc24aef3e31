package chaos

import "fmt"

// kind of an object: how the storm treats it.
type kind string

const (
	// bystander objects are never mutated, so their credentials must never change.
	bystander kind = "bystander"
	// mutated objects are rotated, renewed, revoked, deleted and created again.
	mutated kind = "mutated"
	// expiring objects are mutated too, and their leases often reach the maximum TTL.
	expiring kind = "expiring"
)

// kindOf the i-th object. A third are bystanders.
func kindOf(i int) kind {
	switch {
	case i%3 == 0:
		return bystander
	case i%12 == 1:
		return expiring
	}
	return mutated
}

func objectName(i int) string { return fmt.Sprintf("%s-%03d", kindOf(i), i) }

// bystanderLeases vary in TTL and renewal time. Each is renewed with at least a minute left.
var bystanderLeases = []struct {
	role           string
	renewAtPercent int32
}{{"bystander-90", 20}, {"bystander-120", 30}, {"bystander-180", 67}}

// roleOf is the database role of the i-th object.
func roleOf(i int) string {
	switch {
	case kindOf(i) == bystander:
		return bystanderLeases[i/3%len(bystanderLeases)].role
	case kindOf(i) == expiring:
		return "expiring"
	case isSlow(i):
		return fmt.Sprintf("slow-%d", i)
	}
	return fmt.Sprintf("mutated-%d", i%4)
}

// isSlow reports whether the storm slows down the creation of the i-th object's user.
func isSlow(i int) bool { return kindOf(i) == mutated && i%20 < 2 }

func renewAtPercentOf(i int) int32 {
	if kindOf(i) == bystander {
		return bystanderLeases[i/3%len(bystanderLeases)].renewAtPercent
	}
	return 67
}
