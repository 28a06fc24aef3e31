package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report of a run.
type Report struct {
	Seed uint64
	// Storm is the duration of the storm; 0 if there was none.
	Storm time.Duration
	// Quiet is the time without new faults, so that leases could be renewed.
	Quiet               time.Duration
	Objects, Bystanders int
	// KillsAtWork are the kills of a manager that had reconciled an object.
	Kills, KillsAtWork, Pauses int
	// KillIntervals are the times between kills.
	KillIntervals []time.Duration
	// LongestOutage by server.
	LongestOutage map[string]time.Duration
	// Faults and Mutations, counted by kind.
	Faults, Mutations map[string]int

	// Issued and Renewals are requests that Vault completed.
	Issued, Renewals int
	// AbandonedByVault are issuances that exceeded Vault's request limit. There should be none, since they can leave
	// users behind.
	AbandonedByVault int
	// Credentials that reached a Secret, Causes for them, and Uncaused credentials.
	Credentials, Causes, Uncaused int
	// ChangedBystanders are bystanders whose credential was replaced.
	ChangedBystanders int
	// ClosestCall is the shortest remaining life of a bystander's lease at its renewal; negative if there was no
	// renewal.
	ClosestCall time.Duration

	// Leaked leases and users exist but are not recorded. Lost ones are recorded but do not exist.
	LeakedLeases, LeakedUsers, LostLeases, LostUsers int
	// Left leases, users and issuing tokens exist after all objects were deleted.
	LeftLeases, LeftUsers, LeftTokens int
	// Orphans are users that remain because the active Vault of a cluster was lost while it created them. Vault has no
	// lease of theirs, so nobody can revoke them.
	Orphans int
	// OrphansAllowed is the most that the run accepts: one for each issuance that Vault did not complete.
	OrphansAllowed int
	// UnusedLogins are tokens that requested no credential. They expire.
	UnusedLogins int
	// SettleTime is the time from the last fault until all objects were settled.
	SettleTime time.Duration
	// DeleteTime is the time until all deleted objects were gone.
	DeleteTime time.Duration

	// Failover reports whether leaders were made to fail.
	Failover  bool
	Takeovers []Takeover
	// Isolation is zero if nothing hung.
	Isolation Isolation
	// Scale is zero if there was no scale run.
	Scale Scale
	// Verdict is empty if the run did not finish. The error of Run names the broken promises.
	Verdict Verdict
}

// Verdict on leasekeeper's promises.
type Verdict string

// The verdicts.
const (
	Kept   Verdict = "kept"
	Broken Verdict = "BROKEN"
)

// String formats the report as a table.
func (r Report) String() string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { _, _ = fmt.Fprintf(t, "%s\t%v\n", name, value) }
	row("seed", r.Seed)
	if r.Storm > 0 && r.Verdict != "" {
		r.stormRows(row)
	}
	for _, takeover := range r.Takeovers {
		takeover.rows(row)
	}
	if r.Isolation.Hung > 0 {
		r.Isolation.rows(row)
	}
	if r.Scale.Leases > 0 {
		r.Scale.rows(row)
	}
	if r.Verdict == "" {
		r.Verdict = "unknown: the run did not finish"
	}
	row("promises", r.Verdict)
	_ = t.Flush()
	return b.String()
}

func (r Report) stormRows(row func(string, any)) {
	row("storm", fmt.Sprintf("%s, of which %s without new faults for renewals", r.Storm.Round(time.Second), r.Quiet))
	row("objects", fmt.Sprintf("%d, of which %d bystanders", r.Objects, r.Bystanders))
	row("manager killed", fmt.Sprintf("%d, of which %d at work", r.Kills, r.KillsAtWork))
	if d := slices.Sorted(slices.Values(r.KillIntervals)); len(d) > 0 {
		row("time between kills", fmt.Sprintf("%.1f to %.1f s, median %.1f s",
			d[0].Seconds(), d[len(d)-1].Seconds(), d[len(d)/2].Seconds()))
	}
	row("manager paused and resumed", r.Pauses)
	for _, server := range slices.Sorted(maps.Keys(r.LongestOutage)) {
		row("longest outage of "+server, r.LongestOutage[server].Round(100*time.Millisecond))
	}
	for _, counts := range []struct {
		title  string
		byKind map[string]int
	}{{"faults", r.Faults}, {"mutations", r.Mutations}} {
		total := 0
		for _, n := range counts.byKind {
			total += n
		}
		row(counts.title, total)
		for _, kind := range slices.Sorted(maps.Keys(counts.byKind)) {
			row("  "+kind, counts.byKind[kind])
		}
	}
	row("credentials issued", r.Issued)
	row("issuances abandoned by Vault", r.AbandonedByVault)
	row("renewals", r.Renewals)
	row("credentials published", fmt.Sprintf("%d, for %d causes", r.Credentials, r.Causes))
	row("credentials replaced without a cause", r.Uncaused)
	row("bystanders changed", r.ChangedBystanders)
	if r.ClosestCall >= 0 {
		row("shortest remaining life at a bystander's renewal", r.ClosestCall.Round(time.Second))
	}
	row("time until settled", r.SettleTime.Round(100*time.Millisecond))
	row("leaked leases", r.LeakedLeases)
	row("leaked users", r.LeakedUsers)
	row("lost leases, users", fmt.Sprintf("%d, %d", r.LostLeases, r.LostUsers))
	row("time until deleted", r.DeleteTime.Round(100*time.Millisecond))
	row("left after deletion: leases, users, issuing tokens",
		fmt.Sprintf("%d, %d, %d", r.LeftLeases, r.LeftUsers, r.LeftTokens))
	row("unused logins, which expire", r.UnusedLogins)
	row("users without a lease, left by lost Vaults", fmt.Sprintf("%d, at most %d", r.Orphans, r.OrphansAllowed))
}
