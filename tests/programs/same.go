// The same requests as same.py and same.js, with Go's crypto/tls.
//
//	serve ADDRESS:PORT: serves with key.pem and cert.pem of the folder it runs in.
//	ask ADDRESS:PORT VERSION REQUEST...: posts, on one connection in HTTP 1.1 or 2; prints the statuses.
package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
)

func serve(address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	answer := func(writer http.ResponseWriter, request *http.Request) {
		io.Copy(io.Discard, request.Body)
		io.WriteString(writer, "answer")
	}
	fmt.Println("ready")
	log.Fatal(http.ServeTLS(listener, http.HandlerFunc(answer), "cert.pem", "key.pem"))
}

func ask(address, version string, paths []string) {
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2: version == "2",
	}
	client := http.Client{Transport: transport}
	for _, path := range paths {
		response, err := client.Post("https://"+address+path, "text/plain", bytes.NewReader([]byte("question")))
		if err != nil {
			log.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		fmt.Print(response.StatusCode, " ")
	}
	fmt.Println()
}

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2])
	} else {
		ask(os.Args[2], os.Args[3], os.Args[4:])
	}
}
