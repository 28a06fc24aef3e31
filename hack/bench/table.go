package main

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// row is one figure, with so many digits after the point.
type row struct {
	name   string
	digits int
	get    func(result) float64
}

// table has a row for each figure and a column for each size.
func (r *report) table() string {
	var text bytes.Buffer
	fmt.Fprintf(&text, "\nleasekeeper %s, --concurrency=%d; %d CPUs, %.0f GiB; %s\n\n",
		r.Manager, r.Concurrency, r.Machine.CPUs, r.Machine.MemoryMiB/1024, r.Date.Format(time.DateTime))
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range slices.Concat(r.syncRows(), celRows, restartRows, r.deletionRows()) {
		// AlignRight would move the names too, so they are padded to one width.
		fmt.Fprintf(w, "%-48s\t", row.name)
		for _, result := range r.Results {
			fmt.Fprintf(w, "%s\t", strconv.FormatFloat(row.get(result), 'f', row.digits, 64))
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // writing to a buffer does not fail
	return text.String()
}

func (r *report) syncRows() []row {
	return slices.Concat([]row{
		{"objects", 0, func(r result) float64 { return float64(r.Objects) }},
		{"first sync, s", 1, func(r result) float64 { return r.FirstSync.Seconds }},
		{"  of which creating the objects, s", 1, func(r result) float64 { return r.CreatedSeconds }},
		{"bare loop of logins and credentials, s", 1, func(r result) float64 { return r.BareLoopSeconds }},
		{"first sync / bare loop", 1, func(r result) float64 { return r.Ratio }},
		{"requests per object, first sync", 2, func(r result) float64 { return r.FirstSync.RequestsPerObject }},
	}, r.breakdown(func(r result) phase { return r.FirstSync }), []row{
		{"TokenReviews per object, made by Vault",
			2, func(r result) float64 { return r.FirstSync.TokenReviewsPerObject }},
		{"CPU of the manager per object, ms", 1, func(r result) float64 { return r.FirstSync.ManagerCPUMillis }},
		{"CPU of the API server per object, ms", 1, func(r result) float64 { return r.FirstSync.APIServerCPUMillis }},
		{"  in the bare loop, ms", 1, func(r result) float64 { return r.BareAPIServerCPUMillis }},
		{"CPU used by unrelated programs, %", 0, func(r result) float64 { return r.FirstSync.OtherCPUPercent }},
		{"peak memory of the manager, first sync, MiB", 0, func(r result) float64 { return r.FirstSync.PeakMiB }},
	})
}

var celRows = []row{
	{"CEL evaluations per object, first sync", 1, func(r result) float64 { return r.FirstSync.CELPerObject }},
	{"CEL evaluations per status write", 1, func(r result) float64 { return r.CELPerStatusWrite }},
	{"  with most optional fields set", 1, func(r result) float64 { return r.CELPerStatusWriteFull }},
}

var restartRows = []row{
	{"restart: credentials issued", 0, func(r result) float64 { return float64(r.Restart.CredentialsIssued) }},
	{"restart: API writes", 0, func(r result) float64 { return float64(r.Restart.Writes) }},
	{"restart: peak memory of the manager, MiB", 0, func(r result) float64 { return r.Restart.PeakMiB }},
}

func (r *report) deletionRows() []row {
	return slices.Concat([]row{
		{"deletion, s", 1, func(r result) float64 { return r.Deletion.Seconds }},
		{"requests per object, deletion", 2, func(r result) float64 { return r.Deletion.RequestsPerObject }},
	}, r.breakdown(func(r result) phase { return r.Deletion }), []row{
		{"CPU of the manager per deletion, ms", 1, func(r result) float64 { return r.Deletion.ManagerCPUMillis }},
		{"CPU of the API server per deletion, ms", 1, func(r result) float64 { return r.Deletion.APIServerCPUMillis }},
		{"CPU used by unrelated programs, %", 0, func(r result) float64 { return r.Deletion.OtherCPUPercent }},
		{"peak memory of the manager, deletion, MiB", 0, func(r result) float64 { return r.Deletion.PeakMiB }},
		{"leases left in Vault", 0, func(r result) float64 { return float64(r.Left.Leases) }},
		{"issuing tokens left in Vault", 0, func(r result) float64 { return float64(r.Left.Tokens) }},
	})
}

// rare kinds of requests, fewer per object than this in every size, share one row.
const rare = 0.02

// breakdown has a row for each kind of request, the most frequent first.
func (r *report) breakdown(of func(result) phase) []row {
	most := map[string]float64{}
	for _, result := range r.Results {
		for kind, perObject := range of(result).ByKind {
			most[kind] = max(most[kind], perObject)
		}
	}
	kinds := slices.SortedFunc(maps.Keys(most), func(a, b string) int {
		return cmp.Or(cmp.Compare(most[b], most[a]), cmp.Compare(a, b))
	})
	common := slices.IndexFunc(kinds, func(kind string) bool { return most[kind] < rare })
	if common < 0 {
		common = len(kinds)
	}
	var rows []row
	for _, kind := range kinds[:common] {
		rows = append(rows, row{"  " + kind, 2, func(r result) float64 { return of(r).ByKind[kind] }})
	}
	if others := kinds[common:]; len(others) > 0 {
		rows = append(rows, row{fmt.Sprintf("  %d rare kinds", len(others)), 2, func(r result) (sum float64) {
			for _, kind := range others {
				sum += of(r).ByKind[kind]
			}
			return sum
		}})
	}
	return rows
}
