package vault

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
