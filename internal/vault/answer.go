package vault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// answer is the shape that Vault and OpenBao give every answer, errors included.
type answer struct {
	RequestID     string          `json:"request_id"`
	LeaseID       string          `json:"lease_id"`
	LeaseDuration json.Number     `json:"lease_duration"`
	Renewable     bool            `json:"renewable"`
	Data          json.RawMessage `json:"data"`
	Warnings      []string        `json:"warnings"`
	Auth          *authAnswer     `json:"auth"`
	WrapInfo      json.RawMessage `json:"wrap_info"`
	// Errors is nil where the answer has no such key, and empty for a plain 404.
	Errors *[]string `json:"errors"`

	// token that the answer is to.
	token string
}

type authAnswer struct {
	ClientToken   string      `json:"client_token"`
	Accessor      string      `json:"accessor"`
	LeaseDuration json.Number `json:"lease_duration"`
	Renewable     bool        `json:"renewable"`
	TokenType     string      `json:"token_type"`
	NumUses       json.Number `json:"num_uses"`
}

// parse reads an answer. ok is false for what Vault would not say: no JSON, or JSON of another shape.
func (r reply) parse() (a answer, ok bool) {
	if len(r.body) == 0 || json.Unmarshal(r.body, &a) != nil {
		return answer{}, false
	}
	a.token = r.token
	if a.Errors != nil {
		// Go takes "erRors" for the key too; by what stands there a lease can be over, so it must be Vault's own.
		a.Errors = nil
		if raw, said := object(r.body)["errors"]; said && json.Unmarshal(raw, &a.Errors) != nil {
			return answer{}, false
		}
	}
	return a, a.RequestID != "" || a.Errors != nil || a.Auth != nil || !isNull(a.Data) || len(a.Warnings) > 0
}

func isNull(raw json.RawMessage) bool {
	trimmed := bytes.TrimSpace(raw)
	return len(trimmed) == 0 || bytes.Equal(trimmed, []byte("null"))
}

// object reads a JSON object; nil for anything else.
func object(raw json.RawMessage) map[string]json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return nil
	}
	return fields
}

// texts are the error texts, without the decoration that Vault's errors get when several are joined.
func (a answer) texts() []string {
	if a.Errors == nil {
		return nil
	}
	var texts []string
	for _, text := range *a.Errors {
		texts = append(texts, undecorated(text)...)
	}
	return texts
}

var joined = regexp.MustCompile(`^\d+ errors? occurred:`)

// undecorated undoes "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n".
func undecorated(text string) []string {
	text = strings.TrimSpace(text)
	head := joined.FindString(text)
	if head == "" {
		return []string{text}
	}
	var texts []string
	for _, item := range strings.Split(text[len(head):], "\n\t* ") {
		if item = strings.TrimSpace(item); item != "" {
			texts = append(texts, strings.TrimPrefix(item, "* "))
		}
	}
	return texts
}

// says tells whether one of the error texts is exactly one of these. Exactly, because an engine's own error, which may
// quote anything, comes in the same place.
func (a answer) says(any ...string) bool {
	return slices.ContainsFunc(a.texts(), func(text string) bool { return slices.Contains(any, text) })
}

// capped tells whether Vault granted less because of a maximum (CalculateTTL in sdk/framework/lease.go).
func (a answer) capped() bool {
	return slices.ContainsFunc(a.Warnings, func(warning string) bool {
		return strings.Contains(warning, "exceeded the effective max_ttl")
	})
}

// quote is what the server said, fit to be shown: without the token that it was said to, and other secrets that were sent.
func (a answer) quote(secrets ...string) string {
	texts := a.texts()
	if len(texts) == 0 {
		texts = a.Warnings
	}
	if len(texts) == 0 {
		return "nothing more"
	}
	return scrub(strings.Join(texts, "; "), append(secrets, a.token)...)
}

// maxSeconds keeps a duration within what time.Duration holds.
const maxSeconds = 100 * 365 * 24 * 3600

// seconds reads a number of seconds; 0 for none, a negative or an unreadable one.
func seconds(n json.Number) time.Duration {
	var s float64
	if _, err := fmt.Sscan(string(n), &s); err != nil || !(s > 0) {
		return 0
	}
	return time.Duration(min(s, maxSeconds)) * time.Second
}

// wholeSeconds rounds up: asking for less than was meant could shorten a lease.
func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
