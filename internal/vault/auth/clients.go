package auth

import (
	"net/http"
	"time"
)

// HTTPClients do not follow redirects, and do not use the proxy of the provider.
type HTTPClients struct {
	// Exchange is for services that exchange tokens. It connects only to what --allowed-addresses permits, because a
	// provider may choose the address.
	Exchange *http.Client
	// Metadata is for the metadata server and for the agent of EKS Pod Identity. It connects to their link-local
	// addresses, which Exchange refuses. So no field of a provider may choose an address that is requested with it, nor
	// may a SecretProvider use a method that requests it.
	Metadata *http.Client
}

// NewHTTPClients makes clients that read no endless responses. The timeout is that of a request with its response.
func NewHTTPClients(exchange, metadata http.RoundTripper, timeout time.Duration) HTTPClients {
	client := func(transport http.RoundTripper) *http.Client {
		return &http.Client{
			Transport:     bounded{transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Timeout:       timeout,
		}
	}
	return HTTPClients{Exchange: client(exchange), Metadata: client(metadata)}
}

// maxCloudBytes bounds the body of a response. The largest is a token.
const maxCloudBytes = 64 << 10

// bounded is a transport whose responses end with an error after maxCloudBytes.
type bounded struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		response.Body = http.MaxBytesReader(nil, response.Body, maxCloudBytes)
	}
	return response, err
}
