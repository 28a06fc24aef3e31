// Package lease decides what happens to a lease. It is pure: no I/O, no clock, no randomness.
//
// Plan looks at an Input of observed facts and names the next Step. The transitions in ledger.go say what each step
// does to the records in the status. The Lessor interface is the contract with a backend; lease/fake is one for tests.
package lease
