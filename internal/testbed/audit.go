package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"
)

// Mark is a place in an audit log: requests are counted since a mark.
type Mark int64

// markOf is behind the last whole line: the server may be in the middle of writing the next one.
func markOf(path string) (Mark, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return Mark(bytes.LastIndexByte(text, '\n') + 1), err
}

// linesSince calls read with every whole line after the mark.
func linesSince(path string, since Mark, read func([]byte) error) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Seek(int64(since), io.SeekStart); err != nil {
		return err
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	for {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		if !whole {
			return nil
		}
		if err := read(line); err != nil {
			return err
		}
		text = rest
	}
}

// AuditEntry is one line of Vault's audit log. Vault hashes all that is secret
// in it; path and operation are plain.
type AuditEntry struct {
	Time time.Time
	// Type is "request" (as it came in) or "response" (as it went out).
	Type string
	// Operation is Vault's: read, update (POST and PUT), list, delete …
	Operation string
	// Path has no leading slash: database/creds/orders.
	Path string
	// Error is set on answers that failed.
	Error string
	// DisplayName is the caller's: kubernetes-<namespace>-<ServiceAccount>.
	DisplayName string
	// Accessor of the caller's token, as AuditHash makes it.
	Accessor string
}

// Mark is the present end of Vault's audit log.
func (v *Vault) Mark() (Mark, error) { return markOf(v.auditPath()) }

// Audit lists what Vault logged since the mark; 0 is the beginning.
func (v *Vault) Audit(since Mark) ([]AuditEntry, error) {
	var entries []AuditEntry
	err := linesSince(v.auditPath(), since, func(line []byte) error {
		var raw struct {
			Time  time.Time `json:"time"`
			Type  string    `json:"type"`
			Error string    `json:"error"`
			Auth  struct {
				DisplayName string `json:"display_name"`
				Accessor    string
			} `json:"auth"`
			Request struct{ Operation, Path string } `json:"request"`
		}
		if err := json.Unmarshal(line, &raw); err != nil {
			return err
		}
		entries = append(entries, AuditEntry{
			Time: raw.Time, Type: raw.Type, Error: raw.Error, DisplayName: raw.Auth.DisplayName, Accessor: raw.Auth.Accessor,
			Operation: raw.Request.Operation, Path: raw.Request.Path,
		})
		return nil
	})
	return entries, err
}

// Requests are the requests since the mark whose "operation path" matches the
// regular expression: `^read database/creds/`. The testbed's own count too.
func (v *Vault) Requests(since Mark, pattern string) ([]AuditEntry, error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	entries, err := v.Audit(since)
	var found []AuditEntry
	for _, e := range entries {
		if e.Type == "request" && match.MatchString(e.Operation+" "+e.Path) {
			found = append(found, e)
		}
	}
	return found, err
}

// AuditHash is how the audit log writes a value that it hashes, such as an accessor.
func (v *Vault) AuditHash(ctx context.Context, value string) (string, error) {
	return v.Root.Sys().AuditHashWithContext(ctx, "file", value)
}

// APIRequest is one answered request of kube-apiserver's audit log.
type APIRequest struct {
	Time        time.Time
	User        string
	Verb        string
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	Code        int
	// DryRun asked the API server to store nothing.
	DryRun bool
}

// Mark is the present end of the API server's audit log.
func (c *ControlPlane) Mark() (Mark, error) { return markOf(c.auditPath()) }

// Requests are the requests answered since the mark that match says yes to. A
// line is written just after its answer went out, so poll for an exact count.
func (c *ControlPlane) Requests(since Mark, match func(APIRequest) bool) ([]APIRequest, error) {
	var found []APIRequest
	err := linesSince(c.auditPath(), since, func(line []byte) error {
		var raw struct {
			StageTimestamp time.Time
			RequestURI     string
			Verb           string
			User           struct{ Username string }
			ObjectRef      struct{ Resource, Subresource, Namespace, Name string }
			ResponseStatus struct{ Code int }
		}
		if err := json.Unmarshal(line, &raw); err != nil {
			return err
		}
		r := APIRequest{
			Time: raw.StageTimestamp, User: raw.User.Username, Verb: raw.Verb,
			Resource: raw.ObjectRef.Resource, Subresource: raw.ObjectRef.Subresource,
			Namespace: raw.ObjectRef.Namespace, Name: raw.ObjectRef.Name, Code: raw.ResponseStatus.Code,
			DryRun: strings.Contains(raw.RequestURI, "dryRun=All"),
		}
		if match(r) {
			found = append(found, r)
		}
		return nil
	})
	return found, err
}
