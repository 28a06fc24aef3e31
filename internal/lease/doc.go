// Package lease decides what happens to the leases of a DynamicSecret. It is pure: no I/O, no clock, no randomness.
//
// Plan takes an Input of observed facts and returns the next Step. The transitions in ledger.go change the records in
// the status. conditions.go derives the conditions.
package lease
