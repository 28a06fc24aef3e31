package vault

import (
	"context"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Matching lists the selected leases with as many requests as it takes.
func (b *Backend) Matching(ctx context.Context, spec *v1alpha1.LeaseRevocationSpec) ([]string, error) {
	var l backend.Listing
	for !l.Complete {
		if err := b.ListNext(ctx, spec, &l); err != nil {
			return nil, err
		}
	}
	return l.IDs, nil
}

// KnownText is a row of the table of error texts, for the tests on real servers.
type KnownText struct {
	Text string
	// Library: it is not the server's own text.
	Library bool
	// OnlyVault, OnlyOpenBao: the other server does not have it.
	OnlyVault, OnlyOpenBao bool
}

// KnownTexts are all rows.
func KnownTexts() []KnownText {
	var all []KnownText
	for _, known := range knownTexts {
		all = append(all, KnownText{
			Text: known.text, Library: known.servers&library != 0,
			OnlyVault: known.servers&openBao == 0, OnlyOpenBao: known.servers == openBao,
		})
	}
	return all
}
