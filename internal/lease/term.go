package lease

import "time"

// Term is what a server granted.
type Term struct {
	// At is when the request was sent, so that At + Duration is never later than the true end.
	At time.Time
	// Duration granted.
	Duration time.Duration
	// Renewable as the server reports it.
	Renewable bool
	// Capped is true when the server reported that a maximum limited the grant.
	Capped bool
}
