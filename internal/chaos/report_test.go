package chaos

import (
	"strings"
	"testing"
	"time"
)

func TestTheReportSaysHowManyOrphansAreAllowed(t *testing.T) {
	text := Report{Storm: time.Minute, Verdict: Kept, Orphans: 3, OrphansAllowed: 17}.String()
	if !strings.Contains(text, "3, at most 17") {
		t.Errorf("the report is:\n%s", text)
	}
}
