// The same requests as same.py and same.js, with Go's crypto/tls.
//
//	serve ADDRESS:PORT: serves with key.pem and cert.pem of the folder it runs in.
//	ask ADDRESS:PORT VERSION REQUEST...: posts, on one connection in HTTP 1.1 or 2; prints the statuses.
//	become ADDRESS:PORT VERSION REQUEST PROGRAM ARGUMENT...: the same, and then runs another program in this process.
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
	"syscall"
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
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2])
	case "ask":
		ask(os.Args[2], os.Args[3], os.Args[4:])
	case "become":
		// Which thread it is that ends up as the process should not matter.
		ask(os.Args[2], os.Args[3], os.Args[4:5])
		log.Fatal(syscall.Exec(os.Args[5], os.Args[5:], os.Environ()))
	}
}
