package chaos

import "fmt"

// kind of an object, by what happens to it.
type kind string

const (
	// bystander: nobody touches it, so its credential must never change.
	bystander kind = "bystander"
	// stirred: it is rotated, renewed, revoked, deleted and made again.
	stirred kind = "stirred"
	// brief is stirred, and its lease reaches its maximum again and again.
	brief kind = "brief"
)

// kindOf the i-th object: a third of them are bystanders.
func kindOf(i int) kind {
	switch {
	case i%3 == 0:
		return bystander
	case i%12 == 1:
		return brief
	}
	return stirred
}

func nameOf(i int) string { return fmt.Sprintf("%s-%03d", kindOf(i), i) }

// bystanders differ in how long their leases last and how early they are renewed. When that is due, a minute or more is
// left.
var bystanders = []struct {
	role           string
	renewAtPercent int32
}{{"patient-90", 20}, {"patient-120", 30}, {"patient-180", 67}}

// roleOf the i-th object in the database engine.
func roleOf(i int) string {
	switch {
	case kindOf(i) == bystander:
		return bystanders[i/3%len(bystanders)].role
	case kindOf(i) == brief:
		return "brief"
	case isSlow(i):
		return fmt.Sprintf("slow-%d", i)
	}
	return fmt.Sprintf("stirred-%d", i%4)
}

// isSlow says that the user of the i-th object takes seconds to make at times.
func isSlow(i int) bool { return kindOf(i) == stirred && i%20 < 2 }

// renewAtOf is spec.lease.renewAtPercent of the i-th object.
func renewAtOf(i int) int32 {
	if kindOf(i) == bystander {
		return bystanders[i/3%len(bystanders)].renewAtPercent
	}
	return 67
}
